"""Decides whether a replica can begin a request in time, from what it has accepted and how fast that drains."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from deploy.gateway.demand import Capacity, Demand
from deploy.gateway.drain import Rate, Resource
from deploy.gateway.errors import RATE_LIMIT, ApiError, Refused
from deploy.gateway.estimates import Correction
from deploy.metrics import ADMITTED_KV_BYTES, DRAIN_RATE, ESTIMATED_WAIT
from deploy.settings import AdmissionSettings

LONGEST_RETRY_S = 60
"""Longest ``Retry-After``: the clients of OpenAI and Anthropic do not heed a longer one."""

NORMAL = 0
"""The engine's priority of a request that asks for none."""


class Ticket:
    """One accepted request."""

    def __init__(self, admission: "Admission", demand: Demand, priority: int) -> None:
        self._admission, self.demand, self.priority = admission, demand, priority
        self.waits, self.ended = True, False
        self.since = 0.0
        self.accepted_at = admission.now
        self.estimate_s: float | None = None

    def watch(self, has_first_token: Callable[[], bool]) -> None:
        """The engine has the request now; ``has_first_token`` is asked where no output tells of it."""
        self._admission.watch(self, has_first_token)

    def started(self, ago_s: float = 0) -> None:
        """The first token came ``ago_s`` seconds ago. Only the first call counts."""
        if self.waits:
            self._admission.start(self, ago_s)

    def finished(self) -> None:
        """The request ended, however it ended. Only the first call counts."""
        if not self.ended:
            self._admission.end(self)


@dataclass
class _Queue:
    """The accepted requests of one priority that have no first token yet."""

    demand: Demand = field(default_factory=Demand)
    watched: deque[tuple[Ticket, Callable[[], bool]]] = field(default_factory=deque)


class Admission:
    """The ledger of what a replica has accepted. One event loop uses it; no method waits.

    A request waits until slots and KV cache are free for everything that the engine will take before it and for itself,
    and until the prompts before it are read. All that goes on at the same time, so the longest of the three counts.
    """

    def __init__(
        self, capacity: Capacity, settings: AdmissionSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._capacity, self._longest_wait_s, self._clock = capacity, settings.max_queue_wait_s, clock
        self._now = clock()
        self._kv, self._slots = Resource(capacity.kv_bytes, self._now), Resource(capacity.max_num_seqs, self._now)
        self._reading = Rate(self._now)
        self._queues: dict[int, _Queue] = {}
        self._waiting = Demand()
        self.correction = Correction(capacity.max_num_seqs)
        self._smallest = capacity.demand(1, 1)
        self._report()

    @property
    def now(self) -> float:
        """The clock's reading when the ledger was last used, in seconds."""
        return self._now

    def wait_s(self, priority: int = NORMAL, demand: Demand | None = None) -> float:
        """Estimated seconds until the first token of a request that came now; without ``demand``, of the smallest."""
        return self._room_s(priority, demand) * self.correction.factor

    def _room_s(self, priority: int, demand: Demand | None) -> float:
        """Seconds until the engine takes it, if it goes on as it did while it was measured."""
        self._look()
        self._advance()
        demand = demand or self._smallest
        ahead = self._ahead_of(priority)
        slots = self._slots.wait_s(ahead.sequences, demand.sequences)
        # A request may need less than it declares. While nobody waits, the engine has had room for all it was given,
        # and the next request shows whether there is more.
        kv = self._kv.wait_s(ahead.kv_bytes, demand.kv_bytes) if ahead.sequences else 0.0
        # One chunk is read in the next step.
        reading = ahead.prompt_tokens / self._reading.value if ahead.prompt_tokens > self._capacity.chunk else 0.0
        return max(slots, kv, reading)

    def check(self, priority: int, demand: Demand | None = None) -> None:
        """Refuse what could not start in time; without ``demand``, what could not even if it were the smallest.

        Raises:
            Refused: 429, with the estimated wait as ``retry_after``.
        """
        demand = demand or self._smallest
        wait = self.wait_s(priority, demand)
        self._refuse_full(demand, wait)
        self._refuse_late(wait)

    def _refuse_full(self, demand: Demand, wait: float) -> None:
        accepted = self._slots.held + self._waiting.sequences
        if accepted + demand.sequences > self._capacity.max_num_seqs + self._capacity.max_queued:
            raise _overloaded(f"its queue of {self._capacity.max_queued} requests is full", wait)

    def _refuse_late(self, wait: float) -> None:
        if wait > self._longest_wait_s:
            about = f"more than {LONGEST_RETRY_S}" if wait > LONGEST_RETRY_S else f"about {math.ceil(wait)}"
            raise _overloaded(f"this request would wait {about} s, and {self._longest_wait_s:g} s are allowed", wait)

    def admit(self, prompt_tokens: int, max_tokens: int, n: int, priority: int, *, follows: bool = False) -> Ticket:
        """Check a request of ``n`` completions with its exact demand, and count it.

        ``follows``: it is a further prompt of a request that was admitted. It waits for the first ones, which no later
        attempt would change, so only a full queue refuses it.

        Raises:
            Refused: as ``check``.
        """
        demand = self._capacity.demand(prompt_tokens, max_tokens, n)
        room_s = self._room_s(priority, demand)
        wait = room_s * self.correction.factor
        self._refuse_full(demand, wait)
        if not follows:
            self._refuse_late(wait)
        ticket = self._count(demand, priority)
        ticket.estimate_s = room_s
        return ticket

    def accept(self, prompt_tokens: int, max_tokens: int, n: int, priority: int) -> Ticket:
        """Count a request that can no longer be refused."""
        self._advance()
        return self._count(self._capacity.demand(prompt_tokens, max_tokens, n), priority)

    def _count(self, demand: Demand, priority: int) -> Ticket:
        self._queues.setdefault(priority, _Queue()).demand.add(demand)
        self._waiting.add(demand)
        return Ticket(self, demand, priority)

    def watch(self, ticket: Ticket, has_first_token: Callable[[], bool]) -> None:
        """For ``Ticket.watch``."""
        self._queues[ticket.priority].watched.append((ticket, has_first_token))

    def start(self, ticket: Ticket, ago_s: float) -> None:
        """For ``Ticket.started``."""
        self._advance()
        if self._is_reading:
            self._reading.add(ticket.demand.prompt_tokens)
        self._leave_queue(ticket)
        ticket.since = self._now - ago_s
        if ticket.estimate_s is not None:
            self.correction.learn(ticket.estimate_s, ticket.since - ticket.accepted_at)
        self._kv.take(ticket.demand.kv_bytes, ticket.since)
        self._slots.take(ticket.demand.sequences, ticket.since)

    def end(self, ticket: Ticket) -> None:
        """For ``Ticket.finished``."""
        self._look()
        self._advance()
        ticket.ended = True
        if ticket.waits:
            self._leave_queue(ticket)
        else:
            self._kv.give_back(ticket.demand.kv_bytes, ticket.since)
            self._slots.give_back(ticket.demand.sequences, ticket.since)

    def _leave_queue(self, ticket: Ticket) -> None:
        ticket.waits = False
        self._queues[ticket.priority].demand.add(ticket.demand, -1)
        self._waiting.add(ticket.demand, -1)

    def _look(self) -> None:
        """Find out who has a first token, asking in the order in which the engine takes them."""
        for queue in self._queues.values():
            while queue.watched:
                ticket, has_first_token = queue.watched[0]
                if ticket.waits and not has_first_token():
                    break
                ticket.started()
                queue.watched.popleft()

    def _advance(self) -> None:
        self._now = self._clock()
        self._kv.advance(self._now)
        self._slots.advance(self._now)
        self._reading.advance(self._now, float(self._is_reading))

    @property
    def _is_reading(self) -> bool:
        """Whether those who wait, wait for nothing but the reading of more prompts than one step takes."""
        waiting = self._waiting
        return (
            waiting.prompt_tokens > self._capacity.chunk
            and self._slots.held + waiting.sequences <= self._slots.room
            and self._kv.held + waiting.kv_bytes <= self._kv.room
        )

    def _ahead_of(self, priority: int) -> Demand:
        """What waits and is begun before a request of this priority that comes now."""
        ahead = Demand()
        for other, queue in self._queues.items():
            if other <= priority:
                ahead.add(queue.demand)
        return ahead

    def _report(self) -> None:
        """Have the metrics ask this ledger when they are read, which costs requests nothing."""
        ESTIMATED_WAIT.set_function(self.wait_s)
        ADMITTED_KV_BYTES.set_function(lambda: self._kv.held + self._waiting.kv_bytes)
        DRAIN_RATE.labels("kv_bytes").set_function(lambda: _measured(self._kv.drain_rate))
        DRAIN_RATE.labels("sequences").set_function(lambda: _measured(self._slots.drain_rate))
        DRAIN_RATE.labels("prompt_tokens").set_function(lambda: _measured(self._reading.value))


def _measured(rate: float) -> float:
    """``rate`` as a metric: zero while it was never measured."""
    return 0.0 if math.isinf(rate) else rate


def _overloaded(reason: str, wait_s: float) -> Refused:
    """429: this replica could not begin the request in time."""
    retry_after = max(1, math.ceil(min(wait_s, LONGEST_RETRY_S)))
    message = f"The server is overloaded: {reason}. Send the request again in {retry_after} s."
    return Refused(ApiError(429, RATE_LIMIT, "server_overloaded", message, retry_after=retry_after))
