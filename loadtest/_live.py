"""The figures of a run while it lasts, from rolling aggregates: memory and cost do not grow with the run."""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from loadtest._request import ErrorKind, Record
from loadtest._slo import Objective, failed, meets_all
from loadtest._statistics import Array, Index

BIN_S = 2.0
KEPT_BINS = 300
"""Ten minutes; older bins are forgotten."""
WINDOW_S = 30.0
"""What the table's figures look back on."""
DELAY_S = 4.0
"""Processes report every second, a busy one later: what is younger may not be complete."""
MOST_SCENARIOS = 20
OTHERS = "other scenarios"
ALL = "all requests"
SMALLEST_S, GROWTH, BUCKETS = 1e-5, 1.05, 380
"""A histogram's buckets: each 5 % wider than the one before, from 0.01 ms to beyond 1,000 s. A percentile is given as
the geometric middle of its bucket, so at most 2.5 % off."""
LATENCIES = ("ttft", "itl", "e2e", "lag")


@dataclass(slots=True)
class Tally:
    """What happened in one bin, or in several added up."""

    ended: Counter[str] = field(default_factory=Counter)
    """Requests that ended: ``completed``, ``failed``, ``cancelled``, and ``good`` of the completed ones."""
    tokens: float = 0.0
    """Output tokens that arrived."""
    answered_tokens: int = 0
    answered_s: float = 0.0
    """Output tokens and seconds of the completed requests."""
    histograms: dict[str, Array] = field(
        default_factory=lambda: {name: np.zeros(BUCKETS, dtype=np.float64) for name in LATENCIES}
    )

    def add(self, other: "Tally") -> None:
        """Add another one to this."""
        self.ended += other.ended
        self.tokens += other.tokens
        self.answered_tokens += other.answered_tokens
        self.answered_s += other.answered_s
        for name, histogram in other.histograms.items():
            self.histograms[name] += histogram

    def quantile_ms(self, name: str, q: float) -> float | None:
        """A percentile in milliseconds; None without samples."""
        total = np.cumsum(self.histograms[name])
        if not total[-1]:
            return None
        bucket = int(np.searchsorted(total, q * total[-1] * (1 - 1e-12), side="left"))
        return float(1000 * SMALLEST_S * GROWTH ** (bucket + 0.5))

    @property
    def tokens_per_user(self) -> float | None:
        """Output tokens per second that one waiting user sees."""
        return self.answered_tokens / self.answered_s if self.answered_s else None


class Live:
    """Takes every record as it comes in, and gives the figures of the last ``WINDOW_S`` seconds and by bin."""

    def __init__(self, objectives: Sequence[Objective] = (), clock: Callable[[], float] = time.perf_counter) -> None:
        self._objectives = objectives
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forget everything: a run begins."""
        self.origin = self._clock()
        self.totals: Counter[str] = Counter()
        self._bins: dict[int, dict[str, Tally]] = {}
        self._last = 0.0

    def observe(self, record: Record) -> None:
        """Take in a record whose times are ``perf_counter`` seconds of this process."""
        name = self._name(record.scenario)
        self.totals[name] += 1
        # Clocks of several machines agree only so far: nothing ends in the future.
        moment = min(record.ended, self._clock())
        ended = self._tally(name, moment)
        if ended is None:
            return
        self._last = max(self._last, moment - self.origin)
        self._count(ended, record)
        for latency in ("ttft", "e2e", "lag"):
            value = getattr(record, latency)
            if value is not None and (latency != "e2e" or record.error is None):
                ended.histograms[latency][bucket_of(value)] += 1
        if record.first is not None:
            self._tokens(name, record)
        self._forget()

    @property
    def scenarios(self) -> list[str]:
        """The scenarios seen."""
        return sorted(self.totals)

    def window(self, scenario: str = ALL) -> tuple[Tally, float]:
        """The sum over the last ``WINDOW_S`` seconds up to the last request that ended, and its length in seconds."""
        last = self.newest
        first = max(0, last - round(WINDOW_S / BIN_S) + 1)
        return self._sum(scenario, range(first, last + 1)), (last + 1 - first) * BIN_S

    def by_bin(self, scenario: str = ALL) -> tuple[Array, list[Tally]]:
        """The middle of each kept bin in seconds since the start, and what happened in it."""
        numbers = range(max(0, self.newest - KEPT_BINS + 1), self.newest + 1)
        middles = np.array([(number + 0.5) * BIN_S for number in numbers])
        return middles, [self._sum(scenario, [number]) for number in numbers]

    @property
    def newest(self) -> int:
        """The youngest bin that is complete; -1 before there is one."""
        # While requests end, up to DELAY_S ago; when none does any more, the bin of the last one.
        past = math.floor((self._clock() - self.origin - DELAY_S) / BIN_S) - 1
        return min(past, self._latest_bin) if self._bins else -1

    def _name(self, scenario: str) -> str:
        return scenario if scenario in self.totals or len(self.totals) < MOST_SCENARIOS else OTHERS

    def _tally(self, name: str, moment: float) -> Tally | None:
        """The tally of a moment; None where it lies before the start or is forgotten already."""
        number = math.floor((moment - self.origin) / BIN_S)
        if number < max(0, self._latest_bin - KEPT_BINS + 1):
            return None
        scenarios = self._bins.setdefault(number, {})
        if name not in scenarios:
            scenarios[name] = Tally()
        return scenarios[name]

    @property
    def _latest_bin(self) -> int:
        return math.floor(self._last / BIN_S)

    def _count(self, tally: Tally, record: Record) -> None:
        if record.error == ErrorKind.CANCELLED:
            tally.ended["cancelled"] += 1
        elif failed(record):
            tally.ended["failed"] += 1
        else:
            tally.ended["completed"] += 1
            tally.answered_tokens += record.output_tokens
            tally.answered_s += record.e2e
            tally.ended["good"] += meets_all(record, self._objectives)

    def _tokens(self, name: str, record: Record) -> None:
        chunks = np.array([(0.0, record.first_chunk_tokens), *record.gaps], dtype=np.float64)
        arrived = (record.first or 0.0) + np.cumsum(chunks[:, 0])
        scale = record.output_tokens / max(1.0, float(chunks[:, 1].sum()))
        numbers = np.floor((arrived - self.origin) / BIN_S)
        for number in np.unique(numbers):
            tally = self._tally(name, self.origin + (float(number) + 0.5) * BIN_S)
            if tally is None:
                continue
            inside = numbers == number
            tally.tokens += float(chunks[inside, 1].sum()) * scale
            # The first chunk has no gap before it.
            gaps = chunks[1:][inside[1:]]
            np.add.at(tally.histograms["itl"], buckets_of(gaps[:, 0] / gaps[:, 1]), gaps[:, 1])

    def _sum(self, scenario: str, numbers: Sequence[int]) -> Tally:
        total = Tally()
        for number in numbers:
            for name, tally in self._bins.get(number, {}).items():
                if scenario in (ALL, name):
                    total.add(tally)
        return total

    def _forget(self) -> None:
        oldest = self._latest_bin - KEPT_BINS
        for number in [number for number in self._bins if number < oldest]:
            del self._bins[number]


def buckets_of(seconds: Array) -> Index:
    """The histogram buckets of some latencies."""
    steps = np.log(np.maximum(seconds, SMALLEST_S) / SMALLEST_S) / math.log(GROWTH)
    return np.minimum(steps.astype(np.int64), BUCKETS - 1)


def bucket_of(seconds: float) -> int:
    """The histogram bucket of one latency."""
    return min(int(math.log(max(seconds, SMALLEST_S) / SMALLEST_S) / math.log(GROWTH)), BUCKETS - 1)
