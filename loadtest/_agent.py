"""A process's part in a run: told what to do by the conductor, it generates load and reports what it measured."""

import logging
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import gevent
from gevent.event import Event

from loadtest._client import settle_memory
from loadtest._errors import LoadTestError
from loadtest._generator import Generator, Place
from loadtest._health import watch
from loadtest._request import ClockAnchor, ErrorKind, Record
from loadtest._run_data import HealthSample
from loadtest._run_plan import RunPlan

_logger = logging.getLogger(__name__)
REPORT_S = 1.0
LARGEST_BATCH = 50
"""Records in one message. Between two of them the process looks after its streams."""

Batch = dict[str, Any]
"""``worker``; ``records`` and ``health`` as rows, times in seconds since the start of the run; ``dropped`` so far; and
``done``, with which nothing more comes, ``failed`` with a sentence where the process could not take part."""


@dataclass(frozen=True, slots=True)
class Go:
    """The start of a run, and which part of it is whose."""

    started_wall: float
    worker: int
    workers: int


class Agent:
    """``deliver`` gets the batches, ``request_ended`` every record, for Locust's own statistics."""

    def __init__(self, deliver: Callable[[Batch], None], request_ended: Callable[[Record], None]) -> None:
        self.generator: Generator | None = None
        self._deliver = deliver
        self._request_ended = request_ended
        self._records: list[Record] = []
        self._health: list[HealthSample] = []
        self._worker = 0
        self._shift = 0.0
        self._drain_s = 0.0
        self._cut = ErrorKind.TIMEOUT, ""
        self._job: gevent.Greenlet | None = None

    def prepare(self, plan: RunPlan, api_key: str | None) -> str | None:
        """Get ready; a sentence where that is not possible."""
        self.abandon()
        self._records, self._health = [], []
        self._drain_s = plan.drain_s
        self._cut = (
            ErrorKind.TIMEOUT,
            f"not answered within {plan.drain_s:g} s after the end of the run (--stop-timeout)",
        )
        try:
            self.generator = Generator(plan, api_key, self._observe)
        except (LoadTestError, ValueError) as error:
            return str(error)
        settle_memory()
        return None

    def go(self, go: Go) -> None:
        """Run, in a greenlet of its own."""
        anchor = ClockAnchor.now()
        start = anchor.perf + (go.started_wall - anchor.wall)
        self._worker, self._shift = go.worker, -start
        self._job = gevent.spawn(self._run, Place(go.worker, go.workers, start))

    def stop(self, drain_s: float | None = None) -> None:
        """End before the time: what is in flight after ``drain_s`` seconds counts as cancelled."""
        if drain_s is not None:
            self._drain_s = drain_s
            self._cut = ErrorKind.CANCELLED, "the run was interrupted"
        if self.generator is not None:
            self.generator.stop()

    def wait(self, seconds: float) -> None:
        """Until everything is delivered."""
        if self._job is not None:
            self._job.join(seconds)

    def abandon(self) -> None:
        """Forget a run that is still going on."""
        if self._job is not None:
            self._job.kill()
        self._job = None

    def _observe(self, record: Record) -> None:
        self._records.append(record)
        self._request_ended(record)

    def _run(self, place: Place) -> None:
        generator = self.generator
        assert generator is not None
        health = gevent.spawn(watch, place.start, place.worker, self._counts, self._health)
        ended = Event()
        reports = gevent.spawn(self._report, ended)
        try:
            generator.run(place)
            # The last second is complete a moment later.
            gevent.sleep(0.05)
            health.kill()
            generator.drain(self._drain_s, *self._cut)
        except Exception:
            # A mistake of this program: what was measured is still told, and the missing load shows.
            _logger.exception("the load generator failed")
        finally:
            health.kill()
            ended.set()
        reports.join()
        self._ship(done=True)

    def _counts(self) -> tuple[int, int]:
        generator = self.generator
        return (generator.in_flight, generator.dispatched) if generator is not None else (0, 0)

    def _report(self, ended: Event) -> None:
        while not ended.wait(REPORT_S):
            self._ship(done=False)

    def _ship(self, *, done: bool) -> None:
        generator = self.generator
        while True:
            records, self._records = self._records[:LARGEST_BATCH], self._records[LARGEST_BATCH:]
            health, self._health[:] = list(self._health), []
            last = not self._records
            self._deliver(
                {
                    "worker": self._worker,
                    "records": [record.shifted(self._shift).to_row() for record in records],
                    "health": [list(astuple(sample)) for sample in health],
                    "dropped": generator.dropped if generator is not None else 0,
                    "done": done and last,
                }
            )
            if last:
                return
            gevent.sleep(0)
