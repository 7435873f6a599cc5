"""Two sides, each of one run or repeated ones: the change of every metric from A to B with a bootstrap interval."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from loadtest._request import ErrorKind
from loadtest._run_data import RunData
from loadtest._samples import samples_of, tokens_within
from loadtest._slo import QUANTILES, failed
from loadtest._statistics import (
    CONFIDENCE,
    Array,
    Index,
    draw_groups,
    enough_samples,
    interval,
    mean,
    percentiles,
    resampled_means,
    resampled_percentiles,
)

RESAMPLES = 2000
"""Twice the usual: widened for several metrics, an interval ends further out in the tails."""
BLOCK_S = 5.0
"""Throughput is resampled in blocks of this length: the seconds of one block depend on each other."""
MOST_VALUES = 50_000
"""Of more samples in one run, every n-th is taken."""
LATENCIES = {"ttft": ("p50", "p95", "p99"), "itl": ("p50", "p95", "p99"), "e2e": ("p50", "p95", "p99")}
ERROR_RATE, THROUGHPUT = "error_rate", "output_tokens_per_s"


@dataclass(frozen=True, slots=True)
class Change:
    """One metric on both sides. Latencies in ms."""

    metric: str
    a: float
    b: float
    change: float
    """Relative, B / A − 1; of the error rate, the difference B − A."""
    low: float
    high: float
    """Interval of the change."""
    larger_is: Literal["worse", "better"]

    def judged(self, tolerance: float) -> Literal["worse", "better", "same"]:
        """``worse`` or ``better`` where the whole interval lies beyond the tolerance (for errors: beyond none)."""
        beyond = 0.0 if self.metric == ERROR_RATE else tolerance
        if self.low > beyond:
            return self.larger_is
        if self.high < -beyond:
            return "better" if self.larger_is == "worse" else "worse"
        return "same"


@dataclass(frozen=True, slots=True)
class Series:
    """One metric of all runs of a side, ready to be resampled by groups: requests, or blocks of time."""

    values: Array
    owners: Index
    weights: Array
    groups: list[int]
    """Groups in each run; ``owners`` counts them through."""


def changes(a: Sequence[RunData], b: Sequence[RunData], confidence: float = CONFIDENCE) -> list[Change]:
    """Every metric that both sides have samples enough for.

    The intervals hold together with ``confidence``: each is widened for their number (Bonferroni), so that two sides
    that are alike seldom differ in any metric.
    """
    latencies = {name: (_latency(a, name), _latency(b, name)) for name in LATENCIES}
    quoted = {name: _quotable(name, *sides) for name, sides in latencies.items()}
    each = 1 - (1 - confidence) / (sum(map(len, quoted.values())) + 2)
    found = [
        change for name, sides in latencies.items() for change in _latency_changes(name, quoted[name], *sides, each)
    ]
    found.append(_error_change(_failures(a), _failures(b), each))
    throughput = _throughput_change(_throughput(a), _throughput(b), each)
    return [change for change in (*found, throughput) if change is not None]


def _quotable(name: str, a: Series, b: Series) -> list[str]:
    smallest = min(a.weights.sum(), b.weights.sum())
    return [statistic for statistic in LATENCIES[name] if enough_samples(smallest, QUANTILES[statistic])]


def _latency_changes(name: str, statistics: list[str], a: Series, b: Series, confidence: float) -> list[Change | None]:
    if not statistics:
        return []
    qs = [QUANTILES[statistic] for statistic in statistics]
    values = [percentiles(side.values, qs, side.weights) for side in (a, b)]
    resampled = [
        resampled_percentiles(side.values, side.owners, qs, draw_groups(side.groups, seed, RESAMPLES), side.weights)
        for seed, side in enumerate((a, b))
    ]
    return [
        _relative(f"{name}_{statistic}", values[0][i], values[1][i], resampled[0][:, i], resampled[1][:, i], confidence)
        for i, statistic in enumerate(statistics)
    ]


def _error_change(a: Series, b: Series, confidence: float) -> Change | None:
    before, after = mean(a.values), mean(b.values)
    bounds = interval(_means(b, 1) - _means(a, 0), confidence)
    return None if bounds is None else Change(ERROR_RATE, before, after, after - before, *bounds, larger_is="worse")


def _throughput_change(a: Series, b: Series, confidence: float) -> Change | None:
    return _relative(THROUGHPUT, mean(a.values), mean(b.values), _means(a, 0), _means(b, 1), confidence)


def _means(side: Series, seed: int) -> Array:
    draws = draw_groups(side.groups, seed, RESAMPLES)
    return resampled_means(side.values, side.owners, sum(side.groups), draws, side.weights)


def _relative(name: str, a: float, b: float, drawn_a: Array, drawn_b: Array, confidence: float) -> Change | None:
    if not a > 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = interval(drawn_b / drawn_a - 1, confidence)
    larger_is: Literal["worse", "better"] = "better" if name == THROUGHPUT else "worse"
    return None if bounds is None else Change(name, float(a), float(b), float(b / a - 1), *bounds, larger_is)


def _latency(runs: Sequence[RunData], name: str) -> Series:
    measured = [run.measured() for run in runs]
    samples = samples_of([record for records in measured for record in records], name)
    # A thinned sample stands for all: its weights add up to about what they did.
    step = 1 + len(samples.values) // MOST_VALUES
    weights = np.ones(len(samples.values)) if samples.weights is None else samples.weights
    groups = [len(records) for records in measured]
    return Series(samples.values[::step] * 1000, samples.owners[::step], weights[::step] * step, groups)


def _failures(runs: Sequence[RunData]) -> Series:
    counted = [[one for one in run.measured() if one.error != ErrorKind.CANCELLED] for run in runs]
    return _single([[float(failed(record)) for record in records] for records in counted])


def _throughput(runs: Sequence[RunData]) -> Series:
    return _single([_rates(run) for run in runs])


def _rates(run: RunData) -> list[float]:
    start, end = run.window
    edges = [float(edge) for edge in np.linspace(start, end, max(2, round(run.window_s / BLOCK_S)) + 1)]
    return [
        sum(tokens_within(record, (low, high)) for record in run.records) / (high - low)
        for low, high in itertools.pairwise(edges)
    ]


def _single(runs: Sequence[Sequence[float]]) -> Series:
    values = np.array([value for run in runs for value in run], dtype=np.float64)
    return Series(values, np.arange(len(values)), np.ones(len(values)), [len(run) for run in runs])
