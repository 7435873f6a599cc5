"""What cannot fit, said in one sentence: the numbers, and what to change. All sizes in bytes."""

from math import ceil

from deploy.errors import UsageError
from deploy.machine import Gpu
from deploy.plan.budget import Budget, Demand
from deploy.plan.sizes import GIB, count, human, whole_hundredths
from deploy.settings import Settings

SHORTEST = 16
"""The least ``max_model_len`` that the settings allow, in tokens."""


def unless_sequence_fits(settings: Settings, demand: Demand, kv_bytes: int) -> None:
    """Refuse a ``kv_cache_gib`` that holds no sequence of ``max_model_len``; each worker gets ``kv_bytes`` of it."""
    workers = settings.vllm.tensor_parallel_size
    least = demand.kv.least_memory(demand.length)
    if kv_bytes >= least:
        return
    longest = demand.kv.longest(kv_bytes, demand.length)
    shorter = f"lower max_model_len to {longest}, or " if longest >= SHORTEST else ""
    raise UsageError(
        f"one sequence of max_model_len = {demand.length} tokens needs {human(least * workers)} of KV cache "
        f"but vllm.kv_cache_gib gives {human(kv_bytes * workers)}: {shorter}"
        f"raise vllm.kv_cache_gib to {ceil(100 * least * workers / GIB) / 100:g}"
    )


def unless_gpu_is_free(gpu: Gpu, utilisation: float) -> None:
    """Refuse a GPU with less free memory than its share, as vLLM does (``v1/worker/utils.py``, ``request_memory``)."""
    wanted = ceil(gpu.memory_bytes * utilisation)
    if gpu.free_bytes < wanted:
        raise UsageError(
            f"gpu_memory_utilization = {utilisation:g} asks for {human(wanted)} of the GPU's {human(gpu.memory_bytes)} "
            f"but {human(gpu.free_bytes)} is free: stop what else uses it, "
            f"or lower gpu_memory_utilization to {int(100 * gpu.free_bytes / gpu.memory_bytes) / 100:g}"
        )


def unless_gpu_is_large_enough(settings: Settings, budget: Budget, demand: Demand) -> None:
    """Refuse weights, engine and KV cache (as given, or of one sequence) that exceed what may be used of a GPU."""
    least = demand.kv.least_memory(demand.length)
    kv = budget.kv_cache or least
    usable, fixed = budget.usable or 0, budget.weights + budget.engine
    if fixed + kv <= usable:
        return
    room = max(0, usable - fixed)
    purpose = "" if budget.kv_cache else f" for one sequence of {demand.length} tokens"
    remedies = _smaller(settings, demand, room)
    remedies.append("quantise the model, spread it with tensor_parallel_size, or take a larger GPU")
    raise UsageError(
        f"a GPU needs {human(fixed + kv)} (weights {human(budget.weights)}, engine {human(budget.engine)}, "
        f"KV cache {human(kv)}{purpose}) but {human(usable)} of its {human(budget.capacity or 0)} may be used: "
        + ", or ".join(remedies)
    )


def unless_memory_is_free(settings: Settings, budget: Budget, demand: Demand) -> None:
    """Refuse CPU replicas that together need more than the free memory."""
    if budget.left is None or budget.left >= 0:
        return
    free, replicas = budget.usable or 0, budget.workers
    fitting = max(0, free - budget.shared) // budget.worker
    remedies = [f"lower the replicas to {fitting}"] if fitting else []
    remedies += _smaller(settings, demand, max(0, (free - budget.shared) // replicas - budget.weights - budget.engine))
    remedies.append("choose a smaller model")
    raise UsageError(
        f"{count(replicas, 'replica')} of {human(budget.worker)} (weights {human(budget.weights)}, "
        f"engine {human(budget.engine)}, KV cache {human(budget.kv_cache or 0)}) and {human(budget.shared)} for Ray "
        f"need {human(free - budget.left)} but {human(free)} of memory is free: " + ", or ".join(remedies)
    )


def _smaller(settings: Settings, demand: Demand, room: int) -> list[str]:
    """The settings that make the KV cache of one worker fit ``room``, if any do."""
    workers = settings.vllm.tensor_parallel_size
    given = settings.vllm.kv_cache_gib is not None
    gib = whole_hundredths(room * workers)
    longest = demand.kv.longest(int(gib * GIB) // workers if given else room, demand.length)
    if longest < SHORTEST:
        return []
    changes = [f"max_model_len to {longest}"] if longest < demand.length else []
    if given:
        changes.append(f"vllm.kv_cache_gib to {gib:g}")
    return [f"lower {' and '.join(changes)}"] if changes else []
