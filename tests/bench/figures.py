"""Arithmetic on the measured repeats: spreads, ratios within a repeat, and the goals."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tests.bench.results import Measured, Repeat

BUSY = (16, 32)


@dataclass(frozen=True)
class Spread:
    """Smallest, median and largest of one figure over the repeats."""

    low: float
    median: float
    high: float

    def text(self, digits: int) -> str:
        """``median (low–high)``, or the one value when all are the same to that many digits."""
        low, median, high = (f"{value:.{digits}f}" for value in (self.low, self.median, self.high))
        return median if low == high else f"{median} ({low}–{high})"


@dataclass(frozen=True)
class Goal:
    """A goal beside what was measured; only the median decides. ``at_least`` tells which way is better."""

    name: str
    spread: Spread
    bound: float
    at_least: bool
    digits: int
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the median keeps the bound."""
        return self.spread.median >= self.bound if self.at_least else self.spread.median <= self.bound


def spread(values: Iterable[float]) -> Spread:
    """The spread of at least one value."""
    ordered = sorted(values)
    return Spread(ordered[0], statistics.median(ordered), ordered[-1])


def over(repeats: Sequence[Repeat], figure: Callable[[Repeat], float]) -> Spread:
    """The spread of what ``figure`` says of each repeat; a ratio is thus taken within a repeat."""
    return spread(figure(repeat) for repeat in repeats)


def concurrencies(measured: Measured) -> list[int]:
    """The concurrencies (or batch sizes) that were measured, in their order."""
    return [load.concurrency for load in measured.loads]


def tokens_ratio(concurrency: int) -> Callable[[Repeat], float]:
    """The product's output tokens/s over bare vLLM's."""
    return lambda r: r.product.load(concurrency).tokens_per_s / r.vllm.load(concurrency).tokens_per_s


def added_ttft_ms(repeat: Repeat) -> float:
    """The product's median time to first token at concurrency 1 less bare vLLM's, in milliseconds."""
    return (repeat.product.load(1).ttft_p50_s - repeat.vllm.load(1).ttft_p50_s) * 1000


def over_transformers(repeat: Repeat) -> float:
    """The product's output tokens/s at concurrency 32 over those of transformers' ``generate`` at batch 1."""
    return repeat.product.load(32).tokens_per_s / repeat.transformers.load(1).tokens_per_s


def start_ratio(repeat: Repeat) -> float:
    """The product's time to READY over bare vLLM's."""
    return repeat.product.start_s / repeat.vllm.start_s


def goals(repeats: Sequence[Repeat]) -> list[Goal]:
    """Every goal of the product's speed, with what at least one repeat measured."""
    return [
        *(
            Goal(f"tokens/s at {busy}, beside bare vLLM", over(repeats, tokens_ratio(busy)), 0.97, True, 3, "×")
            for busy in BUSY
        ),
        Goal("time to first token added at 1", over(repeats, added_ttft_ms), 5, False, 1, " ms"),
        Goal("tokens/s at 32, beside transformers at batch 1", over(repeats, over_transformers), 8, True, 1, "×"),
        Goal("start to READY, beside bare vLLM", over(repeats, start_ratio), 1.3, False, 2, "×"),
    ]
