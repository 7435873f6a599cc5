"""The number format on CPUs that compute bfloat16 slowly."""

from collections.abc import Iterator

from deploy.architecture import Architecture, ModelSource
from deploy.machine import Machine
from deploy.plan.limits import compute_dtype
from deploy.plan.sizes import GIB, human
from deploy.settings import Settings

MOST_WIDENED = 4 * GIB
"""Weights in float32 beyond which ``auto`` keeps bfloat16: reading and holding them would weigh more than computing."""


def for_cpu(settings: Settings, source: ModelSource, machine: Machine) -> Settings:
    """``settings`` with float32 for ``auto``, where the CPU is slow in bfloat16 and the model is small enough.

    Whatever is quantised stays as it is: vLLM's kernels for it want 16-bit activations.
    """
    architecture = source.architecture
    if architecture is None or machine.bfloat16 or not _computes_bfloat16(settings, architecture):
        return settings
    plain = settings.vllm.quantization is None and _has_16_bit_files(source, architecture)
    if settings.vllm.dtype != "auto" or not plain or 4 * architecture.parameters > MOST_WIDENED:
        return settings
    return settings.model_copy(update={"vllm": settings.vllm.model_copy(update={"dtype": "float32"})})


def about(asked: Settings, chosen: Settings, architecture: Architecture, machine: Machine) -> Iterator[str]:
    """A format that is not the files' own, or one that this CPU is slow in."""
    if asked.vllm.dtype != chosen.vllm.dtype:
        yield (
            "this CPU lacks AVX-512 and is slow in bfloat16, so the model runs in float32, "
            "with twice the memory for each token in the KV cache: --dtype bfloat16 keeps the files' format"
        )
    elif not machine.bfloat16 and _computes_bfloat16(chosen, architecture) and chosen.vllm.quantization is None:
        yield (
            "this CPU lacks AVX-512 and is slow in bfloat16: --dtype float32 is faster, "
            f"with {human(4 * architecture.parameters)} of weights"
        )


def _computes_bfloat16(settings: Settings, architecture: Architecture) -> bool:
    return compute_dtype(settings, architecture) == "bfloat16"


def _has_16_bit_files(source: ModelSource, architecture: Architecture) -> bool:
    return source.weight_bytes is None or source.weight_bytes > 1.5 * architecture.parameters
