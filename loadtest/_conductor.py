"""Conducts a run from the one process that knows all of it: the master, or the only one."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event

from loadtest._collector import Collector
from loadtest._crew import Crew, RemoteCrew
from loadtest._errors import LoadTestError
from loadtest._files import finish
from loadtest._live import Live
from loadtest._run_plan import RunPlan
from loadtest._server_scraper import Scraper

PERIOD_S = 0.05
MARGIN_S = 15.0
"""After the drain, for the last messages. Past it a process that says nothing is given up."""
INTERRUPT_DRAIN_S = 2.0
USAGE_ERROR, UNTRUSTED = 2, 3


class Conductor:
    """One run after the other. ``ended`` is called with the exit code when the result is written.

    ``live`` takes in every record as it comes; None where nobody watches, because that costs the load time.
    """

    def __init__(self, crew: Crew, live: Live | None, ended: Callable[[int], None]) -> None:
        self.collector: Collector | None = None
        self.scraper: Scraper | None = None
        self._crew = crew
        self._live = live
        self._ended = ended
        self._stopped = Event()
        self._job: gevent.Greenlet | None = None
        self._deadline: float | None = None

    @property
    def active(self) -> bool:
        """Whether a run is going on, or its result is being made."""
        return self._job is not None and not self._job.ready()

    def begin(self, plan: RunPlan, scraper: Scraper, objectives: Sequence[str], report: str | None) -> None:
        """Tell the crew, and conduct the run in a greenlet. Raises LoadTestError."""
        self.scraper = scraper
        self.collector = Collector(plan, self._observe)
        if isinstance(self._crew, RemoteCrew):
            self._crew.collector = self.collector
        self._stopped.clear()
        self._deadline = None
        self._crew.prepare(plan)
        self._job = gevent.spawn(self._conduct, plan, self.collector, objectives, report)
        # A mistake of this program must not leave a run that never ends.
        self._job.link_exception(lambda _: self._ended(UNTRUSTED))

    def stop(self, drain_s: float | None = None) -> None:
        """End the run before its time, and wait until its result is written."""
        if not self.active or gevent.getcurrent() is self._job:
            return
        assert self.collector is not None
        drain = self.collector.plan.drain_s if drain_s is None else drain_s
        self._deadline = time.monotonic() + drain + MARGIN_S
        self._stopped.set()
        self._crew.stop(drain)
        assert self._job is not None
        self._job.join()

    def _observe(self, record: Any) -> None:
        if self._live is not None:
            self._live.observe(record.shifted(self._live.origin))

    def _conduct(self, plan: RunPlan, collector: Collector, objectives: Sequence[str], report: str | None) -> None:
        try:
            started_wall, processes = self._crew.go()
        except LoadTestError as error:
            print(f"loadtest: {error}", file=sys.stderr)
            self._ended(USAGE_ERROR)
            return
        collector.started_wall = started_wall
        start = time.perf_counter() + (started_wall - time.time())
        if self._live is not None:
            self._live.reset()
            self._live.origin = start
        scraper = self.scraper
        assert scraper is not None
        scraper.start()
        try:
            ended = self._wait(plan, collector, start, processes)
        finally:
            scraper.stop()
        run = collector.run_data(ended, processes, scraper.samples(start))
        if collector.dropped:
            text = f"{collector.dropped} requests were not sent, because {plan.most_in_flight} were in flight already"
            print(f"loadtest: {text} (--max-in-flight)", file=sys.stderr)
        self._ended(_finish(run, objectives, None if report is None else Path(report)))

    def _wait(self, plan: RunPlan, collector: Collector, start: float, processes: int) -> float:
        """Until every process delivered everything; when the last request was to be sent, in seconds of the run."""
        end = None if plan.duration_s is None else start + plan.duration_s
        deadline = None if end is None else time.monotonic() + end - time.perf_counter() + plan.drain_s + MARGIN_S
        ended: float | None = None
        while len(collector.done | self._crew.silent()) < processes:
            gevent.sleep(PERIOD_S)
            now = time.perf_counter()
            if ended is None and (self._stopped.is_set() or (end is not None and now >= end)):
                ended = now - start
            limit = self._deadline if self._deadline is not None else deadline
            if limit is not None and time.monotonic() > limit:
                print(
                    "loadtest: some processes did not report their end: their last records are missing", file=sys.stderr
                )
                break
        return max(0.0, time.perf_counter() - start if ended is None else ended)


def _finish(run: Any, objectives: Sequence[str], report: Path | None) -> int:
    try:
        return finish(run, objectives, report)
    except LoadTestError as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return USAGE_ERROR
