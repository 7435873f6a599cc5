"""The server's samples as series on the run's time axis: totals over replicas, rates of counters, shares."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from loadtest._server_metrics import Sample
from loadtest._statistics import Array

STALE_S = 5.0
"""A sample says nothing about a moment further away than this, seconds."""
MEAN_OVER_REPLICAS = ("kv_usage",)
MAX_OVER_REPLICAS = ("estimated_wait_s",)


@dataclass(frozen=True, slots=True)
class Series:
    """``t`` in seconds since the start of the run, ascending; ``values`` NaN where a sample lacks the figure."""

    t: Array
    values: Array

    @property
    def known(self) -> bool:
        """Whether it holds any value."""
        return bool(np.isfinite(self.values).any())


class ServerSeries:
    """Every figure that was seen of the server, by replica and in total."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.errors = [sample for sample in samples if "error" in sample]
        self._good = [sample for sample in samples if "error" not in sample]
        self._t = np.array(sorted({float(sample["t"]) for sample in self._good}))
        self._row = {t: row for row, t in enumerate(self._t)}
        self._by_replica: dict[str, list[Sample]] = {}
        for sample in sorted(self._good, key=lambda one: float(one["t"])):
            self._by_replica.setdefault(_name(sample), []).append(sample)

    @property
    def replicas(self) -> list[str]:
        """The replicas that were seen, in the order in which they appeared."""
        return list(self._by_replica)

    @property
    def seen_in_turn(self) -> bool:
        """Whether one address answered for several replicas in turn: totals are then those of one at a time."""
        replicas = {(sample["source"], sample["replica"]) for sample in self._good}
        rounds = {(sample["source"], sample["t"]) for sample in self._good}
        return len(replicas) > len({source for source, _ in replicas}) and len(rounds) == len(self._good)

    def label(self, replica: str) -> str:
        """A replica's name, without the address where all have the same."""
        sample = self._by_replica[replica][0]
        alike = len({one["source"] for one in self._good}) == 1
        return str(sample["replica"]) if alike and sample["replica"] else replica

    def gauge(self, name: str, replica: str | None = None) -> Series:
        """A gauge of one replica, or over all of them: the sum, of a share its mean, of a wait the longest."""
        table = self._table(name, [replica] if replica else self.replicas)
        known = np.isfinite(table)
        count = known.sum(axis=1)
        if name in MAX_OVER_REPLICAS:
            total = np.where(known, table, -np.inf).max(axis=1, initial=-np.inf)
        else:
            total = np.where(known, table, 0).sum(axis=1)
        if name in MEAN_OVER_REPLICAS:
            total = total / np.maximum(count, 1)
        return Series(self._t, np.where(count > 0, total, np.nan))

    def rate(self, name: str) -> Series:
        """A counter's increase per second, over all replicas; unknown across a restart."""
        return Series(self._t, _total(self._increases(name, per_second=True)))

    def share(self, part: str, whole: str) -> Series:
        """The increase of one counter over that of another; unknown where the other stood still."""
        parts, wholes = _total(self._increases(part)), _total(self._increases(whole))
        return Series(self._t, np.divide(parts, wholes, out=np.full(len(parts), np.nan), where=wholes > 0))

    def increase(self, name: str, window: tuple[float, float]) -> float | None:
        """By how much a counter grew within a window, seconds; None when it was not seen."""
        inside = (self._t > window[0]) & (self._t <= window[1])
        grown = _total(self._increases(name))[inside]
        return float(np.nansum(grown)) if np.isfinite(grown).any() else None

    def replica_count(self) -> Series:
        """How many replicas each round of samples saw."""
        counts = np.zeros(len(self._t))
        for sample in self._good:
            counts[self._row[float(sample["t"])]] += 1
        return Series(self._t, counts)

    def waiting_share(self, start: float, end: float) -> float | None:
        """The share of samples between two moments in which requests waited; the nearest one's when none is between.

        None when no sample is within ``STALE_S``.
        """
        series = self._waiting
        if not len(series.t):
            return None
        first, last = np.searchsorted(series.t, [start, end], side="left")
        values = series.values[first:last]
        if not len(values):
            nearest = int(np.abs(series.t - (start + end) / 2).argmin())
            if abs(series.t[nearest] - (start + end) / 2) > STALE_S:
                return None
            values = series.values[nearest : nearest + 1]
        values = values[np.isfinite(values)]
        return float((values > 0).mean()) if len(values) else None

    @cached_property
    def _waiting(self) -> Series:
        return self.gauge("waiting")

    def _table(self, name: str, replicas: Iterable[str]) -> Array:
        """One row for each round, one column for each replica."""
        names = list(replicas)
        table = np.full((len(self._t), len(names)), np.nan)
        for column, replica in enumerate(names):
            for sample in self._by_replica.get(replica, []):
                table[self._row[float(sample["t"])], column] = sample.get(name, np.nan)
        return table

    def _increases(self, name: str, *, per_second: bool = False) -> Array:
        """Increase since the replica's sample before, of each round and replica."""
        table = self._table(name, self.replicas)
        grown = np.full(table.shape, np.nan)
        for column in range(table.shape[1]):
            rows = np.flatnonzero(np.isfinite(table[:, column]))
            if len(rows) > 1:
                steps = np.diff(table[rows, column])
                seconds = np.diff(self._t[rows]) if per_second else 1.0
                grown[rows[1:], column] = np.where(steps >= 0, steps / seconds, np.nan)
        return grown


def _name(sample: Sample) -> str:
    return f"{sample['source']} {sample['replica']}" if sample.get("replica") else str(sample["source"])


def _total(table: Array) -> Array:
    known = np.isfinite(table)
    return np.where(known.any(axis=1), np.where(known, table, 0).sum(axis=1), np.nan)
