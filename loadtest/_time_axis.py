"""The report's time axis: a bounded number of equal bins over the run, and what fell into each of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from loadtest._run_data import RunData
from loadtest._statistics import Array, Index, percentiles

MOST_BINS = 150
"""More would not be seen on a page, and the file's size must not grow with the run."""
WIDTHS = (0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Seconds that a bin may be long."""

LONGEST_GAP_S = 5.0
"""Where samples are further apart than this, seconds, nothing is known in between."""


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """Bins of ``width`` seconds from the start of the run on."""

    width: float
    bins: int

    @classmethod
    def over(cls, run: RunData) -> "TimeAxis":
        """The axis from the start until the last request ended."""
        end = max([run.duration_s, *(record.ended for record in run.records)], default=0.0)
        width = next((width for width in WIDTHS if end / width <= MOST_BINS), end / MOST_BINS)
        return cls(width, max(1, math.ceil(end / width)))

    @property
    def middles(self) -> Array:
        """The middle of each bin, seconds."""
        return np.linspace(0.5, self.bins - 0.5, self.bins) * self.width

    def bin_of(self, t: Array) -> Index:
        """The bin of each moment; the first or the last one for moments outside."""
        return np.clip((t / self.width).astype(np.int64), 0, self.bins - 1)

    def counts(self, t: Array, weights: Array | None = None) -> Array:
        """How much fell into each bin."""
        return np.asarray(np.bincount(self.bin_of(t), weights, minlength=self.bins), dtype=np.float64)

    def rates(self, t: Array, weights: Array | None = None) -> Array:
        """The same per second."""
        return self.counts(t, weights) / self.width

    def quantiles(self, t: Array, values: Array, qs: Sequence[float], weights: Array | None = None) -> Array:
        """Percentiles of the values in each bin: one row for each of ``qs``; NaN in a bin without any."""
        found = np.full((len(qs), self.bins), np.nan)
        owner = self.bin_of(t)
        order = np.argsort(owner, kind="stable")
        edges = np.searchsorted(owner[order], np.arange(self.bins + 1))
        for number in range(self.bins):
            inside = order[edges[number] : edges[number + 1]]
            if len(inside):
                found[:, number] = percentiles(values[inside], qs, None if weights is None else weights[inside])
        return found

    def means(self, t: Array, values: Array) -> Array:
        """The mean of the known values in each bin; NaN in a bin without any."""
        known = np.isfinite(values)
        counts = self.counts(t[known])
        sums = self.counts(t[known], values[known])
        mean: Array = np.divide(sums, counts, out=np.full(self.bins, np.nan), where=counts > 0)
        return mean

    def sampled(self, t: Array, values: Array) -> Array:
        """The same for something sampled about once a second: bins between two samples get what lies between them."""
        means = self.means(t, values)
        known = np.flatnonzero(np.isfinite(means))
        if len(known) < 2:
            return means
        filled: Array = np.interp(np.arange(self.bins), known, means[known], left=np.nan, right=np.nan)
        for before, after in pairwise(known):
            if (after - before) * self.width > LONGEST_GAP_S:
                filled[before + 1 : after] = np.nan
        return filled

    def largest(self, t: Array, values: Array) -> Array:
        """The largest value in each bin; NaN in a bin without any."""
        found = np.full(self.bins, -np.inf)
        known = np.isfinite(values)
        np.maximum.at(found, self.bin_of(t[known]), values[known])
        return np.asarray(np.where(np.isfinite(found), found, np.nan))

    def in_flight(self, starts: Array, ends: Array) -> Array:
        """How many intervals were open on average in each bin."""
        edges = np.arange(self.bins + 1) * self.width
        # The integral of the number open up to each edge, from the sorted starts and ends.
        opened = np.array(
            [np.clip(edge - starts, 0, None).sum() - np.clip(edge - ends, 0, None).sum() for edge in edges]
        )
        mean: Array = np.diff(opened) / self.width
        return mean
