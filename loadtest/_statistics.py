"""The statistics behind every figure: percentiles, bootstrap intervals, rates over a window, Little's law."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]

SAMPLES_BEYOND = 10
"""Samples that must lie above a percentile for it to be quoted. Their number is binomial, and 10 of the rarer outcome
is the usual rule for taking a binomial as normal (Moore, McCabe and Craig, Introduction to the Practice of Statistics,
chapter 5). With 10, the standard error of that number is about a third of it."""
CONFIDENCE = 0.95
RESAMPLES = 1000
"""Enough for a 95 % percentile interval (Efron and Tibshirani, An Introduction to the Bootstrap, section 14.3)."""


def percentile(values: Array, q: float, weights: Array | None = None) -> float:
    """The smallest measured value that at least the share ``q`` of the samples does not exceed. NaN without samples.

    ``q`` is from 0 to 1. Definition 1 of Hyndman and Fan (1996), the nearest rank: always a value that occurred, never
    one interpolated between two. A value with weight w counts as w samples.
    """
    return float(percentiles(values, [q], weights)[0])


def percentiles(values: Array, qs: Sequence[float], weights: Array | None = None) -> Array:
    """Several percentiles of the same samples, each as ``percentile`` defines it."""
    if not len(values):
        return np.full(len(qs), np.nan)
    order = np.argsort(values)
    return _ranked(values[order], np.ones(len(values)) if weights is None else weights[order], np.asarray(qs))


def _ranked(ascending: Array, weights: Array, qs: Array) -> Array:
    total = np.cumsum(weights)
    # Rounding errors of q × n must not push an exact rank to the next sample: 0.95 × 20 is 19, not 19.000000000000004.
    ranks = np.searchsorted(total, qs * total[-1] * (1 - 1e-12), side="left")
    found: Array = ascending[np.minimum(ranks, len(ascending) - 1)]
    return found


def mean(values: Array, weights: Array | None = None) -> float:
    """The (weighted) arithmetic mean; NaN without samples."""
    return float(np.average(values, weights=weights)) if len(values) else math.nan


def enough_samples(count: float, q: float) -> bool:
    """Whether ``count`` samples are enough to quote the percentile ``q`` (0 to 1): ``SAMPLES_BEYOND`` lie above it."""
    return count * (1 - q) >= SAMPLES_BEYOND * (1 - 1e-9)


def samples_needed(q: float) -> int:
    """The fewest samples with which the percentile ``q`` (0 to 1) may be quoted: p95 needs 200, p99 needs 1000."""
    return math.ceil(round(SAMPLES_BEYOND / (1 - q), 6))


def resampled_percentiles(
    values: Array, owners: Index, qs: Sequence[float], draws: Iterable[Index], weights: Array | None = None
) -> Array:
    """The percentiles ``qs`` of each resample: one row for each draw.

    Whole groups are drawn, not single values: the gaps of one stream resemble each other, and drawing them one by one
    would make the interval too narrow. ``owners[i]`` is the group of ``values[i]``; each of ``draws`` holds how often
    each group is taken.
    """
    order = np.argsort(values)
    ascending, owner = values[order], owners[order]
    weight = np.ones(len(values)) if weights is None else weights[order]
    missing = np.full(len(qs), np.nan)
    rows = []
    for draw in draws:
        taken = weight * draw[owner]
        # A resample can miss every group that has a value.
        rows.append(_ranked(ascending, taken, np.asarray(qs)) if taken.any() else missing)
    return np.array(rows)


def resampled_means(
    values: Array, owners: Index, groups: int, draws: Iterable[Index], weights: Array | None = None
) -> Array:
    """The mean of each resample, whole groups (of which there are ``groups``) drawn as in ``resampled_percentiles``."""
    weight = np.ones(len(values)) if weights is None else weights
    sums = np.bincount(owners, values * weight, minlength=groups)
    counts = np.bincount(owners, weight, minlength=groups)
    return np.asarray([_ratio(float(draw @ sums), float(draw @ counts)) for draw in draws])


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def draw_groups(groups: Sequence[int], seed: int, resamples: int = RESAMPLES) -> Iterator[Index]:
    """``resamples`` times: how often each group is taken when as many are drawn with replacement as there are.

    ``groups`` holds the number of groups in each run. With several runs, runs are drawn first, then the groups within
    each of them (a two-level bootstrap: Davison and Hinkley, Bootstrap Methods and their Application, section 3.8),
    because two runs of one thing differ by more than two halves of one run do.
    """
    random = np.random.default_rng(seed)
    starts = np.cumsum([0, *groups])
    for _ in range(resamples):
        taken = np.zeros(starts[-1], dtype=np.int64)
        for run in random.integers(len(groups), size=len(groups)):
            if groups[run]:
                drawn = random.integers(groups[run], size=groups[run])
                taken[starts[run] : starts[run + 1]] += np.bincount(drawn, minlength=groups[run])
        yield taken


def interval(resampled: Array, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """The bootstrap percentile interval (Efron and Tibshirani, chapter 13); None when nothing could be resampled."""
    finite = resampled[np.isfinite(resampled)]
    if not len(finite):
        return None
    tail = (1 - confidence) / 2
    low, high = percentiles(finite, [tail, 1 - tail])
    return float(low), float(high)


def time_average(starts: Array, ends: Array, window: tuple[float, float]) -> float:
    """How many intervals [start, end] were open on average during the window: time shared with it / its length."""
    low, high = window
    if high <= low:
        return math.nan
    shared = np.minimum(ends, high) - np.maximum(starts, low)
    return float(np.sum(np.clip(shared, 0, None)) / (high - low))


def little_residual(in_flight: float, rate: float, latency_s: float) -> float:
    """(L − λW) / λW: the measured mean number in flight against arrival rate × mean time in the system (Little, 1961).

    Near zero in a steady state. Far from zero, the queue grew or shrank during the window.
    """
    expected = rate * latency_s
    return _ratio(in_flight - expected, expected)


def little_noise(rate: float, latencies_s: Array, window_s: float) -> float:
    """Standard error of L − λW in a steady state, as a number of requests: √(2 λ E[W³] / 3) / T.

    Over one window the two differ only by what hangs over its edges: the rest of the requests in flight at the start,
    less the rest of those in flight at the end. With Poisson arrivals their number at an edge is Poisson with mean λW,
    and the rest of each has the second moment E[W³] / 3E[W] (the equilibrium residual life of renewal theory).
    """
    return math.sqrt(2 * rate * float(np.mean(latencies_s**3)) / 3) / window_s
