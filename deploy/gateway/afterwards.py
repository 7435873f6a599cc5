"""Tells observers of ended requests a little later and several at once, so that no next request waits for them.

An observer that runs where its request ends keeps the event loop from a request that comes then. Besides, its code runs
cold there: between two requests the model has the processor's caches. So each observer is told of a whole batch before
the next one is.
"""

import asyncio
import atexit
from collections import deque
from collections.abc import Sequence

from deploy.gateway.observed import BATCH_S
from deploy.gateway.request import Observer, RequestRecord

MOST_WAITING = 64
"""Ended requests that may wait; one more has the oldest told at once, which bounds how many bodies are held."""

AT_ONCE = 16
"""Requests that one turn of the event loop tells of: about as long as a stream may wait, some milliseconds."""


class Afterwards:
    """An observer that tells ``observers`` of every request that comes, and later of those that ended, in their order.

    It needs a running event loop, but for ``close``.
    """

    def __init__(self, observers: Sequence[Observer], delay_s: float = BATCH_S) -> None:
        self._observers, self._delay_s = tuple(observers), delay_s
        self._ended: deque[RequestRecord] = deque()
        self._timer: asyncio.Handle | None = None
        atexit.register(self.close)

    def __call__(self, record: RequestRecord) -> None:
        """Tell of a request that came; keep an ended one until its turn comes."""
        if record.ended is None:
            self._tell_of([record])
            return
        self._ended.append(record)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._delay_s, self._turn)
        if len(self._ended) > MOST_WAITING:
            self._tell(AT_ONCE)

    def close(self) -> None:
        """Tell of what is left. Nothing may end afterwards."""
        atexit.unregister(self.close)
        self._tell(len(self._ended))

    def _turn(self) -> None:
        self._tell(AT_ONCE)
        self._timer = asyncio.get_running_loop().call_soon(self._turn) if self._ended else None

    def _tell(self, most: int) -> None:
        self._tell_of([self._ended.popleft() for _ in range(min(most, len(self._ended)))])

    def _tell_of(self, records: Sequence[RequestRecord]) -> None:
        for observer in self._observers:
            for record in records:
                observer(record)
