"""The parts of a memory budget. All sizes in bytes."""

from dataclasses import dataclass

from deploy.plan.kv import KvLayout

HEADROOM = 0.05
"""Share of a machine's memory that stays free: above 95 % in use, Ray ends processes (``memory_usage_threshold``)."""


@dataclass(frozen=True)
class Demand:
    """What one replica needs: weights, one step's intermediate results, and KV cache for sequences of ``length``."""

    weights: int
    activations: int
    kv: KvLayout
    length: int


@dataclass(frozen=True)
class Budget:
    """One pool of memory, and what its workers take of it: CPU replicas of a machine, or one GPU's worker.

    ``capacity`` is the free memory of the machine, or the GPU's; ``usable`` what of it the workers may take together;
    both are None where the machine is not known. ``shared`` is taken once, the rest by each of ``workers``.
    """

    capacity: int | None
    usable: int | None
    workers: int
    shared: int
    weights: int
    engine: int
    kv_cache: int | None

    @property
    def worker(self) -> int:
        """Bytes of one worker."""
        return self.weights + self.engine + (self.kv_cache or 0)

    @property
    def left(self) -> int | None:
        """Usable bytes that nobody takes; negative where they do not suffice."""
        return None if self.usable is None else self.usable - self.shared - self.workers * self.worker
