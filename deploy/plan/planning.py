"""The plan: what would run where, what it needs, and whether that fits. Arithmetic only, from figures it is given."""

from dataclasses import dataclass
from typing import Any

from deploy.architecture import Architecture, ModelSource
from deploy.machine import Machine
from deploy.plan import advice, limits, memory, number_format, report
from deploy.plan.budget import Budget, Demand
from deploy.plan.kv import KvLayout, layout
from deploy.plan.limits import Device
from deploy.plan.placement import Placement, place
from deploy.settings import Settings


@dataclass(frozen=True)
class Fit:
    """How a model of known architecture fits: lengths in tokens, ``weights`` in bytes for one replica.

    ``kv`` is the KV cache of one worker, ``kv_full`` what it would be with full attention.
    """

    architecture: Architecture
    max_model_len: int
    max_num_batched_tokens: int
    weights: int
    kv: KvLayout
    kv_full: KvLayout
    budget: Budget


@dataclass(frozen=True)
class Plan:
    """What was decided before anything is loaded. ``fit`` is None until a download tells the architecture."""

    settings: Settings
    source: ModelSource
    placement: Placement
    fit: Fit | None
    warnings: tuple[str, ...]

    @property
    def device(self) -> Device:
        """What the replicas run on."""
        return self.placement.device

    @property
    def replicas_min(self) -> int:
        """The number of replicas that starting waits for."""
        return self.placement.replicas_min

    @property
    def replicas_max(self) -> int:
        """The most replicas that may run at once."""
        return self.placement.replicas_max

    @property
    def cores_per_replica(self) -> int:
        """Cores for each replica; on GPUs one for each of its workers."""
        return self.placement.cores_per_replica

    @property
    def gpus_per_replica(self) -> int:
        """GPUs for each replica; 0 on a CPU."""
        return self.placement.gpus_per_replica

    @property
    def kv_cache_bytes(self) -> int | None:
        """Bytes of KV cache of one replica, over all its GPUs; None where vLLM takes what is left of a GPU."""
        given = memory.given_kv_bytes(self.settings, self.placement)
        if given is not None:
            return given * max(1, self.gpus_per_replica)
        return self.fit.budget.kv_cache if self.fit is not None and self.device == "cpu" else None

    @property
    def max_model_len(self) -> int | None:
        """The longest sequence in tokens; None while neither the settings nor the architecture tell it."""
        return self.fit.max_model_len if self.fit is not None else self.settings.vllm.max_model_len

    @property
    def block_size(self) -> int | None:
        """Tokens in one block of the KV cache; None while the architecture is not known."""
        return None if self.fit is None else self.fit.kv.block_size

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain values, in the order of reading (``docs/plan.md`` explains each)."""
        return report.as_dict(self)


def make_plan(
    settings: Settings, source: ModelSource, machine: Machine, *, cluster: bool = False, starting: bool = True
) -> Plan:
    """Plan one deployment.

    ``cluster``: the replicas run on a Ray cluster, so this machine's size is no limit. ``starting``: False for a plan
    only, which may then be for a GPU that is elsewhere (``hardware.gpu_memory_gib``).

    Raises:
        UsageError: it cannot work or cannot fit, with the numbers and the remedy.
    """
    placement = place(settings, machine, cluster=cluster, starting=starting)
    warnings = [*advice.about_model(settings, source), *advice.exposure(settings), *advice.about_guard(settings)]
    warnings += advice.about_placement(settings, placement, machine, cluster=cluster)
    if placement.device == "cpu" and not cluster:
        warnings += advice.about_sampling(machine)
    fit = None
    if source.architecture is not None:
        if placement.device == "cpu" and not cluster:
            asked, settings = settings, number_format.for_cpu(settings, source, source.architecture, machine)
            warnings += advice.about_number_format(asked, settings, source, source.architecture, machine)
        fit = _fit(settings, source, source.architecture, placement, machine)
        warnings += advice.about_kv_cache(settings, fit.budget, fit.kv, fit.max_model_len)
        if placement.device == "cpu":
            warnings += advice.about_host_memory(fit.budget, machine)
    return Plan(settings, source, placement, fit, tuple(warnings))


def _fit(
    settings: Settings, source: ModelSource, architecture: Architecture, placement: Placement, machine: Machine
) -> Fit:
    length = limits.max_model_len(settings, architecture)
    batched = limits.max_num_batched_tokens(settings, placement.gpu, length)
    window = limits.attention_window(settings, architecture)
    kv, kv_full = (
        layout(settings, architecture, placement.device, window=tokens, batched_tokens=batched)
        for tokens in (window, None)
    )
    weights = memory.weight_bytes(settings, source, architecture)
    demand = Demand(weights, memory.activation_bytes(settings, architecture, batched), kv, length)
    if placement.device == "gpu":
        budget = memory.gpu_budget(settings, placement, demand)
    else:
        budget = memory.cpu_budget(settings, placement, machine, demand)
    return Fit(architecture, length, batched, weights, kv, kv_full, budget)
