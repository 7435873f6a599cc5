"""Where the memory goes: weights, the engine's own needs, the KV cache; and what cannot fit.

All sizes in bytes. A CPU replica's parts come out of the machine's free memory; a GPU's out of that one GPU.
"""

from dataclasses import replace
from math import ceil

from deploy.architecture import BYTES_PER_VALUE, Architecture, ModelSource
from deploy.machine import Machine
from deploy.plan import refusals
from deploy.plan.budget import HEADROOM, Budget, Demand
from deploy.plan.kv import NULL_BLOCKS
from deploy.plan.limits import compute_dtype
from deploy.plan.placement import Placement
from deploy.plan.sizes import GIB
from deploy.settings import Settings

RAY_BYTES = int(2.0e9)
"""Ray's own processes and HAProxy on one machine, measured."""

CPU_REPLICA_BYTES = int(1.7e9)
"""A CPU replica beside weights and KV cache, measured with the demo model: 0.8 GB for the replica's own process, 0.9 GB
for the engine's."""

GPU_WORKER_BYTES = GIB
"""A GPU worker beside weights, activations and KV cache: CUDA context, kernels' workspaces, CUDA graphs. An estimate;
vLLM measures it when it starts and logs what is left as "Available KV cache memory"."""

CPU_KV_BYTES = 4 * GIB
"""Most KV cache that a CPU replica gets unasked: a CPU runs out of arithmetic long before it runs out of sequences."""

QUANTISED_BYTES = {
    # 4 bits, and a 4-byte scale for every 64 weights (bitsandbytes' block size; vLLM does not quantise the scales).
    "bitsandbytes": 0.5 + 4 / 64,
    # 4 bits, and a 2-byte scale and a 4-bit zero point for every 128 weights (the group size of the published models).
    "awq": 0.5 + 2.5 / 128,
    "awq_marlin": 0.5 + 2.5 / 128,
    "gptq": 0.5 + 2.5 / 128,
    "gptq_marlin": 0.5 + 2.5 / 128,
    "fp8": 1.0,
}
"""Bytes per weight of the layers that a method quantises; embeddings and output head keep 16 bits."""


def weight_bytes(settings: Settings, source: ModelSource, architecture: Architecture) -> int:
    """Bytes of the loaded weights of one replica.

    The files' size, converted to the number format the model runs in. With a quantisation, files that are not quantised
    yet are reckoned by ``QUANTISED_BYTES``.
    """
    stored = _stored_bytes(source, architecture)
    quantised = QUANTISED_BYTES.get(settings.vllm.quantization or "")
    if quantised is not None:
        if has_quantised_files(source, architecture):
            return stored
        kept = architecture.vocab_size * architecture.hidden_size * (1 if architecture.tie_word_embeddings else 2)
        return 2 * kept + int(quantised * (architecture.parameters - kept))
    width = BYTES_PER_VALUE.get(architecture.dtype, 2)
    return stored * BYTES_PER_VALUE[compute_dtype(settings, architecture)] // width


def has_quantised_files(source: ModelSource, architecture: Architecture) -> bool:
    """Whether the files take at most three quarters of what 16 bits for each parameter would."""
    return _stored_bytes(source, architecture) <= 0.75 * 2 * architecture.parameters


def _stored_bytes(source: ModelSource, architecture: Architecture) -> int:
    return source.weight_bytes if source.weight_bytes is not None else architecture.weight_bytes


def activation_bytes(settings: Settings, architecture: Architecture, batched_tokens: int) -> int:
    """Estimate of the largest intermediate results of one step.

    Per token four hidden vectors and three of the gated MLP (shared out over the GPUs); per sequence four copies of the
    32-bit logits, which sampling sorts and normalises.
    """
    workers = settings.vllm.tensor_parallel_size
    width = BYTES_PER_VALUE[compute_dtype(settings, architecture)]
    per_token = width * (4 * architecture.hidden_size + ceil(3 * architecture.intermediate_size / workers))
    return batched_tokens * per_token + settings.vllm.max_num_seqs * architecture.vocab_size * 4 * 4


def gpu_budget(settings: Settings, placement: Placement, demand: Demand) -> Budget:
    """The memory of one GPU.

    The KV cache gets what is left of ``gpu_memory_utilization``, as vLLM does it, or ``kv_cache_gib``, which vLLM does
    not hold to that share (``v1/worker/gpu_worker.py``, ``determine_available_memory``).

    Raises:
        UsageError: the GPU is too small or not free enough, with the numbers and the remedy.
    """
    utilisation, gpu = settings.vllm.gpu_memory_utilization, placement.gpu
    given = given_kv_bytes(settings, placement)
    if given is not None:
        refusals.unless_sequence_fits(settings, demand, given)
    capacity = (gpu.memory_bytes or None) if gpu is not None else None
    budget = Budget(
        capacity=capacity,
        usable=capacity if given or capacity is None else ceil(capacity * utilisation),
        workers=1,
        shared=0,
        weights=ceil(demand.weights / placement.gpus_per_replica),
        engine=GPU_WORKER_BYTES + demand.activations,
        kv_cache=given,
    )
    if gpu is None or budget.left is None:
        return budget
    if placement.measured:
        refusals.unless_gpu_is_free(gpu, utilisation)
    refusals.unless_gpu_is_large_enough(settings, budget, demand)
    return budget if given else replace(budget, kv_cache=budget.left)


def cpu_budget(settings: Settings, placement: Placement, machine: Machine, demand: Demand) -> Budget:
    """The free memory of this machine; of a cluster's nodes nothing is known.

    Raises:
        UsageError: the replicas do not fit, with the numbers and the remedy.
    """
    given = given_kv_bytes(settings, placement)
    if given is not None:
        refusals.unless_sequence_fits(settings, demand, given)
    free = machine.free_memory_bytes if placement.measured else None
    budget = Budget(
        capacity=free,
        usable=free,
        workers=placement.replicas_max,
        shared=RAY_BYTES,
        weights=demand.weights,
        engine=CPU_REPLICA_BYTES + demand.activations,
        kv_cache=given,
    )
    if given is None:
        headroom = int(HEADROOM * machine.memory_bytes)
        spare = None if budget.left is None else max(0, budget.left - headroom) // budget.workers
        budget = replace(budget, kv_cache=default_cpu_kv_bytes(demand, settings.vllm.max_num_seqs, spare))
    refusals.unless_memory_is_free(settings, budget, demand)
    return budget


def default_cpu_kv_bytes(demand: Demand, sequences: int, spare: int | None) -> int:
    """KV cache of one CPU replica, in whole blocks, where the settings leave it open.

    Half of ``spare`` (what is free for this replica beside everything else and the headroom), at most ``CPU_KV_BYTES``
    and what ``sequences`` full-length sequences can fill; at least one such sequence.
    """
    kv, length = demand.kv, demand.length
    filled = (kv.blocks_per_sequence(length) * sequences + NULL_BLOCKS) * kv.bytes_per_block
    most = min(CPU_KV_BYTES, filled)
    wanted = most if spare is None else min(most, spare // 2)
    return max(kv.blocks(wanted) * kv.bytes_per_block, kv.least_memory(length))


def given_kv_bytes(settings: Settings, placement: Placement) -> int | None:
    """``kv_cache_gib`` as bytes for each worker of a replica, None where it is left open."""
    gib = settings.vllm.kv_cache_gib
    return None if gib is None else int(gib * GIB) // max(1, placement.gpus_per_replica)
