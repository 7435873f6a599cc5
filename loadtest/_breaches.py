"""Requests that missed an objective, each with the one cause that the report names for it."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from loadtest._request import Record
from loadtest._run_data import HealthSample, RunData
from loadtest._server_series import ServerSeries
from loadtest._slo import Objective, own_latency
from loadtest._statistics import Array, percentile

QUEUED = 0.5
"""Share of the samples between sending and first token in which requests waited, from which on it was the queue."""


class Cause(StrEnum):
    """What a missed objective is put down to."""

    CLIENT = "client"
    QUEUE = "queue"
    PREFILL = "prefill"
    EITHER = "queue or prefill"
    """Where the server's own metrics do not tell which of the two."""
    DECODE = "decode"


RULES: dict[Cause, str] = {
    Cause.CLIENT: (
        "The request would have met the bound had the client been on time: its value less what the client itself may "
        "have added does not exceed the bound. The client may have added the largest loop lag that its process saw in "
        "the seconds of the request (divided by the tokens after the first, for ITL and TPOT) and, for latencies from "
        "the schedule, the dispatch lag."
    ),
    Cause.QUEUE: (
        "The first token came late, and in at least half of the server's samples between sending and first token "
        "(the nearest one, where none lies between) requests were waiting for a slot."
    ),
    Cause.PREFILL: "The first token came late, and no queue explains it by the rule above: the prompt was being read.",
    Cause.EITHER: (
        "The first token came late, and the server's own metrics were not there to tell the queue from the prefill."
    ),
    Cause.DECODE: (
        "Tokens after the first came late: ITL, TPOT or the largest stall missed its bound. E2E counts here when its "
        "time after the first token exceeds the scenario's median by more than its TTFT does; otherwise by the rules "
        "for the first token."
    ),
}
FIRST = ("ttft", "schedule_ttft")
FROM_SCHEDULE = ("schedule_ttft", "lag")
PER_TOKEN = ("itl", "tpot")


@dataclasses.dataclass(frozen=True, slots=True)
class Breach:
    """A request and the objective that it missed by the largest factor; values in milliseconds."""

    record: Record
    objective: Objective
    value: float
    cause: Cause


def breaches(run: RunData, objectives: Sequence[Objective], server: ServerSeries) -> list[Breach]:
    """Every request, failed ones apart, that missed a latency objective with its own value (as goodput counts it)."""
    latencies = [one for one in objectives if one.latency is not None]
    health, medians = _LoopLag(run.health), _medians(run.records)
    found = []
    for record in run.records if latencies else []:
        missed = _worst(record, latencies)
        if missed is not None:
            objective, value = missed
            cause = _cause(record, objective, value, health, medians, server)
            found.append(Breach(record, objective, value, cause))
    return found


def _worst(record: Record, objectives: Sequence[Objective]) -> tuple[Objective, float] | None:
    if record.error is not None:
        return None
    values = [(one, own_latency(record, one.latency[0])) for one in objectives if one.latency]
    missed = [(one, value) for one, value in values if value is not None and not one.allows(value)]
    return max(missed, key=lambda pair: pair[1] / max(pair[0].bound, 1e-9), default=None)


def _cause(
    record: Record,
    objective: Objective,
    value: float,
    health: "_LoopLag",
    medians: dict[str, tuple[float, float]],
    server: ServerSeries,
) -> Cause:
    name = objective.latency[0] if objective.latency else ""
    added = health.worst_ms(record)
    if name in PER_TOKEN:
        added /= max(1, record.output_tokens - 1)
    if name in FROM_SCHEDULE:
        added += (record.lag or 0.0) * 1000
    if name == "lag" or objective.allows(value - added):
        return Cause.CLIENT
    if name in FIRST or (name == "e2e" and not _decode_was_slow(record, medians)):
        return _first_token(record, server)
    return Cause.DECODE


def _decode_was_slow(record: Record, medians: dict[str, tuple[float, float]]) -> bool:
    ttft, decode = medians[record.scenario]
    return (record.e2e - (record.ttft or 0.0)) - decode > (record.ttft or 0.0) - ttft


def _first_token(record: Record, server: ServerSeries) -> Cause:
    share = server.waiting_share(record.sent, record.ended if record.first is None else record.first)
    if share is None:
        return Cause.EITHER
    return Cause.QUEUE if share >= QUEUED else Cause.PREFILL


def _medians(records: Sequence[Record]) -> dict[str, tuple[float, float]]:
    """Median TTFT and median time after the first token of each scenario's completed requests, seconds."""
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for record in records:
        if record.error is None and record.ttft is not None:
            times[record.scenario].append((record.ttft, record.e2e - record.ttft))
    medians = {}
    for scenario, pairs in times.items():
        ttft, decode = np.array(pairs).T
        medians[scenario] = percentile(ttft, 0.5), percentile(decode, 0.5)
    return defaultdict(lambda: (0.0, 0.0), medians)


class _LoopLag:
    """How late a process's event loop was at worst in the seconds of a request."""

    def __init__(self, health: Sequence[HealthSample]) -> None:
        by_worker: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for sample in health:
            by_worker[sample.worker].append((sample.t, sample.loop_lag_s))
        self._workers: dict[int, Array] = {worker: np.array(sorted(each)).T for worker, each in by_worker.items()}

    def worst_ms(self, record: Record) -> float:
        """Milliseconds; 0 where the process left no sample."""
        if record.worker not in self._workers:
            return 0.0
        t, lag = self._workers[record.worker]
        # A sample speaks of the second that ends at its time.
        first, last = np.searchsorted(t, [record.sent, record.ended + 1], side="left")
        return float(lag[first:last].max(initial=0.0)) * 1000
