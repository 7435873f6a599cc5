"""The number format on CPUs that compute bfloat16 slowly."""

from deploy.architecture import Architecture, ModelSource
from deploy.machine import Machine
from deploy.plan.limits import compute_dtype
from deploy.plan.memory import has_quantised_files
from deploy.plan.sizes import GIB
from deploy.settings import Settings

MOST_WIDENED = 4 * GIB
"""Weights in float32 beyond which ``auto`` keeps bfloat16: reading and holding them would weigh more than computing."""


def for_cpu(settings: Settings, source: ModelSource, architecture: Architecture, machine: Machine) -> Settings:
    """``settings`` with float32 for ``auto``, where bfloat16 is slow and the model is small enough."""
    small = float32_bytes(architecture) <= MOST_WIDENED
    if settings.vllm.dtype != "auto" or not small or not is_slow(settings, source, architecture, machine):
        return settings
    return settings.model_copy(update={"vllm": settings.vllm.model_copy(update={"dtype": "float32"})})


def is_slow(settings: Settings, source: ModelSource, architecture: Architecture, machine: Machine) -> bool:
    """Whether the model would run in bfloat16 on a CPU that float32 suits better.

    Nothing suits what is quantised better: vLLM's kernels for it want 16-bit activations.
    """
    quantised = settings.vllm.quantization is not None or has_quantised_files(source, architecture)
    return not machine.bfloat16 and not quantised and compute_dtype(settings, architecture) == "bfloat16"


def float32_bytes(architecture: Architecture) -> int:
    """Bytes of the weights in float32."""
    return 4 * architecture.parameters
