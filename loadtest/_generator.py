"""Generates the load of one process: dispatches on schedule, serves Locust's users, ends in good order."""

import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import gevent
from gevent.event import Event
from gevent.pool import Group

from loadtest._answer import RequestError
from loadtest._client import Client
from loadtest._prompts import Conversation, Planned, Requests
from loadtest._request import ErrorKind, Record
from loadtest._run_plan import RunPlan, read_trace

BACK_OFF_S = 1.0
"""A closed-loop user whose request failed waits so long: a dead server would be asked thousands of times a second."""
MOST_CONVERSATIONS = 10_000
LONGEST_SLEEP_S = 0.5


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the processes this is, and when the run starts on its clock (``perf_counter``)."""

    worker: int
    workers: int
    start: float


class Generator:
    """One run in one process. ``observe`` is called with every record as its request ends."""

    def __init__(self, plan: RunPlan, api_key: str | None, observe: Callable[[Record], None]) -> None:
        """Prepares the text, so that nothing is left to do while measuring. Raises LoadTestError, ValueError."""
        trace = read_trace(plan.trace) if plan.trace else None
        self.plan = plan
        self.dispatched = 0
        self.dropped = 0
        self.place = Place(0, 1, 0.0)
        self._requests = Requests(plan.workloads, plan.calibration, plan.model, plan.seed, plan.nonce, trace)
        self._client = Client(plan.host, api_key, plan.request_timeout_s)
        self._observe = observe
        self._in_flight = Group()
        self._begun, self._stopped = Event(), Event()
        self._numbers = itertools.count()
        self._conversations: deque[Conversation] = deque(maxlen=MOST_CONVERSATIONS)

    @property
    def in_flight(self) -> int:
        """Requests sent and not yet ended."""
        return len(self._in_flight)

    def run(self, place: Place) -> None:
        """Generate until the end of the run, or ``stop``; then nothing is sent any more. Requests may be in flight."""
        self.place = place
        self._numbers = itertools.count(place.worker, place.workers)
        self._sleep_until(place.start)
        self._begun.set()
        if self.plan.arrivals.open_loop:
            self._dispatch()
        duration = self.plan.duration_s
        self._stopped.wait(None if duration is None else max(0.0, place.start + duration - time.perf_counter()))
        self._stopped.set()

    def stop(self) -> None:
        """Send nothing any more."""
        self._begun.set()
        self._stopped.set()

    def drain(self, seconds: float, kind: ErrorKind, why: str) -> None:
        """Wait for the requests in flight, then give them up; each leaves a record of that kind."""
        self._in_flight.join(seconds)
        self._in_flight.kill(RequestError(kind, why))
        self._client.close()

    # Open loop ----------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        plan, place = self.plan, self.place
        times = plan.arrivals.times(plan.seed, plan.duration_s)
        for index, t in enumerate(times):
            # One schedule is dealt out over the processes, so that together they send exactly it.
            if index % place.workers != place.worker:
                continue
            intended = place.start + t
            planned = self._next(index, intended)
            if not self._sleep_until(intended):
                return
            if len(self._in_flight) >= plan.most_in_flight:
                self.dropped += 1
            else:
                self.dispatched += 1
                self._in_flight.spawn(self._send, planned, index, intended)

    def _next(self, index: int, intended: float) -> Planned:
        """The next turn of a conversation that waits for one, or else a new request."""
        if self._conversations and self._conversations[0].ready_at <= intended:
            return self._requests.plan(index, self._conversations.popleft())
        return self._requests.plan(index)

    def _sleep_until(self, moment: float) -> bool:
        """False where the run was stopped before. Too late, it still lets the requests start that were spawned."""
        if moment <= time.perf_counter():
            gevent.sleep(0)
        while (left := moment - time.perf_counter()) > 0:
            if left > LONGEST_SLEEP_S:
                self._stopped.wait(LONGEST_SLEEP_S)
            else:
                gevent.sleep(left)
            if self._stopped.is_set():
                return False
        return not self._stopped.is_set()

    # Closed loop --------------------------------------------------------------------------------------------------

    def serve(self, scenario: str, conversation: Conversation | None) -> tuple[Conversation | None, float]:
        """One request of a Locust user: the conversation to go on with, and seconds to think before the next one.

        A user killed while it waits leaves its request to ``drain``.
        """
        self._begun.wait()
        if self.plan.arrivals.open_loop or self._stopped.is_set():
            self._stopped.wait()
            return None, 1.0
        index = next(self._numbers)
        planned = self._requests.plan(index, conversation, self.plan.scenarios[scenario])
        self.dispatched += 1
        record = self._in_flight.spawn(self._send, planned, index, None).get()
        if record.error not in (None, ErrorKind.CANCELLED):
            return None, BACK_OFF_S
        following = planned.conversation if planned.conversation and planned.conversation.turns_left else None
        return following, self._think(planned)

    def _think(self, planned: Planned) -> float:
        return planned.think_s if self.plan.think_time_s is None else self.plan.think_time_s

    # Both ---------------------------------------------------------------------------------------------------------

    def _send(self, planned: Planned, index: int, intended: float | None) -> Record:
        conversation = planned.conversation
        record = self._client.send(
            planned.spec,
            intended=intended,
            worker=self.place.worker,
            index=index,
            keep_text=conversation is not None,
            continuous_usage=self.plan.calibration.continuous_usage,
        )
        if conversation is not None and record.error is None:
            assert planned.spec.messages is not None
            conversation.messages = [*planned.spec.messages, {"role": "assistant", "content": record.text or ""}]
            conversation.turns_left -= 1
            conversation.ready_at = time.perf_counter() + self._think(planned)
            if intended is not None and conversation.turns_left:
                self._conversations.append(conversation)
        self._observe(record)
        return record
