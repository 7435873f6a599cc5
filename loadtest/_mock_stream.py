"""One answer of the mock server, written on an absolute schedule, with the moments at which it really was."""

import asyncio
import select
import selectors
import time
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtest._mock_script import Fault, Wording


class PreciseSelector(selectors.EpollSelector):
    """Waits to the microsecond where epoll alone, and uvloop, round up to the next millisecond."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Like epoll's, for a timeout in seconds."""
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)  # an epoll descriptor is readable when it has events
            timeout = 0
        return super().select(timeout)


@dataclass(slots=True)
class Truth:
    """What the server did for one request. Times are seconds of the machine's monotonic clock (``perf_counter``)."""

    received: float
    first_due: float = 0.0
    itl_s: float = 0.0
    times: "array[float]" = field(default_factory=lambda: array("d"))
    """Of each content chunk: just before it was given to the kernel."""
    complete: bool = False
    disconnected: bool = False
    """The client hung up."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "received": self.received,
            "first_due": self.first_due,
            "itl_s": self.itl_s,
            "times": list(self.times),
            "complete": self.complete,
            "disconnected": self.disconnected,
        }


class Stream:
    """Writes one answer: chunk k at start + TTFT + k · ITL. A late chunk does not delay those after it."""

    def __init__(
        self, transport: asyncio.Transport, wording: Wording, truth: Truth, head: bytes, ended: Callable[[], None]
    ) -> None:
        """``ended`` is called when the answer is complete, or will never be."""
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._wording = wording
        self._script = wording.script
        self._truth = truth
        self._head = head
        self._ended = ended
        self._next = 0
        self._timer: asyncio.Handle | None = None

    @property
    def tokens(self) -> int:
        """Tokens sent so far."""
        return self._wording.sent_by(self._next - 1)

    def start(self) -> None:
        """Send the headers and the role; the tokens follow."""
        start = time.perf_counter()
        self._truth.first_due = start + self._script.ttft_s
        self._truth.itl_s = self._script.itl_s
        if self._script.fault is not Fault.SLOW_HEADERS:
            self._write_head()
        self._schedule()

    def stop(self) -> None:
        """The client is gone."""
        if self._timer is not None:
            self._timer.cancel()

    def _write_head(self) -> None:
        self._transport.write(self._head + self._wording.role())

    def _schedule(self) -> None:
        due = self._truth.first_due + self._next * self._script.itl_s
        self._timer = self._loop.call_at(due, self._tick)  # perf_counter and the loop's time are one clock

    def _tick(self) -> None:
        number, fault = self._next, self._script.fault
        if number == 0 and fault is Fault.SLOW_HEADERS:
            self._write_head()
        if fault is not None and number == self._script.fault_at and fault in _ENDINGS:
            _ENDINGS[fault](self)
            return
        has_end = fault is not Fault.ENDLESS
        if number < self._wording.chunks or not has_end:
            data = self._wording.chunk(number)
            self._truth.times.append(time.perf_counter())
            self._transport.write(data)
            self._next += 1
        if self._next >= self._wording.chunks and has_end:
            self._finish()
        else:
            self._schedule()

    def _finish(self) -> None:
        self._transport.write(self._wording.end())
        self._truth.complete = True
        if self._script.fault is Fault.CLOSE_IDLE:
            self._transport.close()
        self._ended()

    def _cut(self) -> None:
        self._transport.close()
        self._ended()

    def _fail(self) -> None:
        self._transport.write(self._wording.error_event())
        self._ended()

    def _fall_silent(self) -> None:
        self._ended()


_ENDINGS: Mapping[Fault, Callable[[Stream], None]] = {
    Fault.CUT: Stream._cut,
    Fault.ERROR_EVENT: Stream._fail,
    Fault.SILENCE: Stream._fall_silent,
}
