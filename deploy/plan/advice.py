"""Warnings: what an operator would want to know before starting, and only that."""

from collections.abc import Iterator

from deploy.architecture import Architecture, ModelSource
from deploy.machine import Machine
from deploy.plan import number_format
from deploy.plan.budget import HEADROOM, Budget
from deploy.plan.kv import KvLayout
from deploy.plan.placement import Placement
from deploy.plan.sizes import GIB, count, human
from deploy.settings import Settings

TYPICAL_SEQUENCE = 512
"""Tokens of a short conversation: a KV cache that cannot hold ``max_num_seqs`` of these will often be full."""

SLOW_ON_CPU = 4 * GIB
"""Weights beyond which a CPU is slow for people: each token generated alone reads all of them from memory."""


def exposure(settings: Settings) -> Iterator[str]:
    """Listening on the network without a key, with vLLM's own, or without TLS."""
    host = settings.server.host
    if settings.server.is_loopback:
        return
    if settings.engine.get("api_key"):
        yield "engine argument api_key leaves some of vLLM's routes open: use gateway.keys_file instead"
    elif not settings.keys_required:
        yield f"server.host is {host}, so anyone who reaches this port can use the model: gateway.keys is off"
    elif settings.gateway.keys_file is None:
        yield f"server.host is {host}, which needs API keys: it will not start without gateway.keys_file"
    elif not settings.tls.enabled:
        yield (
            f"server.host is {host} without TLS: unless TLS ends in front, API keys and texts cross the network in "
            "clear text (tls.certificate_file and tls.key_file)"
        )


def about_guard(settings: Settings) -> Iterator[str]:
    """A way around the safe prompt."""
    if settings.guard.safe_prompt == "always" and settings.guard.moderation != "always":
        yield (
            "guard.safe_prompt is always, but /v1/completions takes text that no system prompt precedes: "
            "only moderation guards it"
        )


def about_model(settings: Settings, source: ModelSource) -> Iterator[str]:
    """What the source found out, and a missing chat template."""
    yield from source.warnings
    if source.has_chat_template is False and settings.vllm.chat_template is None:
        yield (
            "the model has no chat template, so chat requests use the product's `base` template; "
            "a base model continues text and may not answer like an assistant"
        )


def about_placement(settings: Settings, placement: Placement, machine: Machine, *, cluster: bool) -> Iterator[str]:
    """Figures of another machine, and cores that wait for replicas which do not run yet."""
    if cluster:
        yield "the replicas run on the cluster: whether its nodes have the cores, GPUs and memory is not checked here"
    elif not placement.measured and placement.gpu is not None:
        yield f"no GPU on this machine: planned for GPUs of {human(placement.gpu.memory_bytes)} each"
    idle = (placement.replicas_max - placement.replicas_min) * placement.cores_per_replica
    if settings.scaling.autoscaling and placement.measured and placement.device == "cpu" and idle:
        yield (
            f"{idle} of {count(len(machine.cores), 'core')} are kept for replicas that start under load: "
            "on one machine, a fixed number of replicas uses all cores all the time"
        )


def about_sampling(machine: Machine) -> Iterator[str]:
    """CPU replicas: nothing to compile the sampler with."""
    if not machine.compiles:
        yield (
            "no C++ compiler with Python's headers was found, so sampling is slower: "
            "install g++ (and python3-dev where Python came from a package)"
        )


def about_number_format(
    asked: Settings, chosen: Settings, source: ModelSource, architecture: Architecture, machine: Machine
) -> Iterator[str]:
    """CPU replicas: a format that is not the files' own, or one that this CPU is slow in."""
    if asked.vllm.dtype != chosen.vllm.dtype:
        yield (
            "this CPU has no bfloat16 instructions (AVX512_BF16), so the model runs in float32, "
            "with twice the memory for each token in the KV cache: --dtype bfloat16 keeps the files' format"
        )
    elif number_format.is_slow(chosen, source, architecture, machine):
        yield (
            "this CPU has no bfloat16 instructions (AVX512_BF16): --dtype float32 reads prompts faster, "
            f"with {human(number_format.float32_bytes(architecture))} of weights"
        )


def about_host_memory(budget: Budget, machine: Machine) -> Iterator[str]:
    """CPU replicas: little memory left, or weights that are slow to read for every token."""
    if budget.left is not None and budget.left < HEADROOM * machine.memory_bytes:
        yield (
            f"memory is tight: {human(budget.left)} of {human(machine.memory_bytes)} stays free, "
            f"and Ray ends processes when less than {HEADROOM:.0%} does"
        )
    if budget.weights > SLOW_ON_CPU:
        yield (
            f"every token generated alone reads all {human(budget.weights)} of weights from memory: "
            "on a CPU expect a few tokens per second at best"
        )


def about_kv_cache(settings: Settings, budget: Budget, layout: KvLayout, length: int) -> Iterator[str]:
    """A window shorter than the sequences it serves; a KV cache too small for ``max_num_seqs``."""
    if layout.window is not None and layout.window < length:
        yield (
            f"the sliding window is {layout.window} tokens, max_model_len {length}: "
            "tokens further back than the window are not attended directly"
        )
    typical = min(TYPICAL_SEQUENCE, length)
    sequences = settings.vllm.max_num_seqs
    if budget.kv_cache is not None and (fitting := int(layout.sequences(budget.kv_cache, typical))) < sequences:
        yield (
            f"max_num_seqs is {sequences} but the KV cache holds only {fitting} sequences of {typical} tokens: "
            "beyond them vLLM interrupts sequences and computes them again"
        )
