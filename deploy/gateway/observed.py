"""What observers may write down of a request: bounded, on one line, and nothing that a client could write freely."""

import logging
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from deploy.gateway.request import RequestRecord
from deploy.gateway.routes import UNKNOWN

BATCH_S = 0.5
"""What ended within this time is written down together. Each by itself would take a core from the model for it: over
1 ms of the next request's time to first token on a CPU (docs/benchmarks.md)."""

LONGEST_MODEL = 128
"""Characters of a model's name that are kept."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})
"""RFC 9110 (section 9), RFC 5789 and the safe method QUERY, as OpenTelemetry's conventions list them."""

OTHER_METHOD = "_OTHER"

# The replica's own log, where an operator looks for what a replica did.
logger = logging.getLogger("ray.serve")


class Stage(NamedTuple):
    """A part of a request's time; ``begin`` and ``end`` are readings of ``time.monotonic`` in seconds."""

    name: str
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin


def stages(record: RequestRecord) -> Iterator[Stage]:
    """The stages of an ended request that are known: ``gateway``, ``queue``, ``prefill``, ``decode``."""
    entered = record.engine_entered
    if entered is not None:
        yield _stage("gateway", record.received, entered)
        if record.queued_s is not None:
            yield _stage("queue", entered, entered + record.queued_s)
        if record.prefill_s is not None:
            scheduled = entered + (record.queued_s or 0.0)
            yield _stage("prefill", scheduled, scheduled + record.prefill_s)
    if record.first_token is not None and record.ended is not None:
        yield _stage("decode", record.first_token, record.ended)


def _stage(name: str, begin: float, end: float) -> Stage:
    return Stage(name, begin, max(begin, end))


def model_of(record: RequestRecord, served: str) -> str:
    """The model that was asked for: ``served``, one that the key lists, or ``UNKNOWN``; empty where none can be.

    vLLM takes its own model where a request names none.
    """
    if record.body is None:
        return ""
    asked = record.body.get("model")
    listed = record.key.models if record.key is not None and record.key.models is not None else ()
    if asked and asked != served:
        return one_line(asked)[:LONGEST_MODEL] if asked in listed else UNKNOWN
    return one_line(served)[:LONGEST_MODEL]


def method_of(record: RequestRecord) -> str:
    """The request's method if HTTP knows it."""
    return record.method if record.method in METHODS else OTHER_METHOD


def one_line(text: str) -> str:
    """``text`` with a question mark for every character that does not print, line ends among them."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def ended_at(record: RequestRecord) -> datetime:
    """When the request ended, in UTC; while it runs, now."""
    ended = time.monotonic() if record.ended is None else record.ended
    return record.received_at + timedelta(seconds=ended - record.received)


def broken(record: RequestRecord) -> bool:
    """Whether an ended request got no whole answer although its client was there to take it."""
    return record.failed or (not record.complete and not record.hung_up)


class Seldom:
    """Warns in the replica's log, at most once in ``period_s`` seconds: a disk that is full stays full."""

    def __init__(self, period_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._period_s, self._clock = period_s, clock
        self._next = clock()

    def warn(self, message: str, *values: object) -> None:
        """Log ``message % values``, unless the last warning is too young."""
        now = self._clock()
        if now >= self._next:
            self._next = now + self._period_s
            logger.warning(message, *values)
