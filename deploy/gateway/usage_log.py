"""The usage log: what every request used, in files that survive the replica (``deploy.gateway.usage_files``).

What is guaranteed: a line is the kernel's as soon as the log was told that its request ended, and the death of the
process, SIGKILL included, then loses nothing of it. Of a running request that death loses at most what came in
``progress_s``. The files are synchronised with the disk as often, which bounds what a crash of the machine loses.
"""

import atexit
import threading
import time
from itertools import count
from pathlib import Path

from deploy.gateway.observed import Seldom, ended_at, model_of
from deploy.gateway.request import RequestRecord
from deploy.gateway.routes import JSON_ROUTES
from deploy.gateway.usage_files import UsageFiles, UsageLine

CLOSE_S = 5.0
"""How long ``close`` waits for a disk that hangs."""

MOST_WAITING = 10_000
"""Lines that may wait for a disk that hangs; further ones are lost, and the replica's log says so."""

_KEYLESS_REFUSALS = {401, 431}


def counts(record: RequestRecord) -> bool:
    """Whether somebody used something: with a key, or on a route to the model where none is needed.

    Whoever has no valid key must not be able to fill the disk.
    """
    if record.key is not None:
        return True
    return record.route in JSON_ROUTES and record.status not in _KEYLESS_REFUSALS


class UsageLog:
    """An observer; a thread of its own does everything that may wait for a disk.

    Args:
        directory: where the files are; ``usage_files.check_directory`` has made it.
        replica_id: another one for every process that ever writes to ``directory``; letters, digits and dashes.
        progress_s: how often running requests are written down, and the files synchronised, in seconds.
        served_model: the name that clients use.
    """

    def __init__(self, directory: Path, replica_id: str, progress_s: float, served_model: str) -> None:
        self._replica_id, self._progress_s, self._served_model = replica_id, progress_s, served_model
        self._files = UsageFiles(directory, replica_id)
        self._seldom = Seldom()
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._running: dict[int, tuple[str, RequestRecord]] = {}
        self._ended: list[UsageLine] = []
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage-log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def __call__(self, record: RequestRecord) -> None:
        """Remember a request that came; hand the line of one that ended to the thread."""
        if record.ended is None:
            with self._lock:
                self._running[id(record)] = f"{self._replica_id}-{next(self._numbers)}", record
            return
        with self._lock:
            name, _ = self._running.pop(id(record))
            if counts(record):
                self._keep(self._line(name, record, final=True))
        self._wake.set()

    def close(self) -> None:
        """Write what is left, and end the thread."""
        atexit.unregister(self.close)
        self._closed.set()
        self._wake.set()
        self._thread.join(CLOSE_S)

    def _keep(self, line: UsageLine) -> None:
        if len(self._ended) < MOST_WAITING:
            self._ended.append(line)
        else:
            self._seldom.warn("the disk of the usage log does not answer: lines of ended requests are lost")

    def _line(self, name: str, record: RequestRecord, *, final: bool) -> UsageLine:
        return UsageLine(
            record=name,
            request_id=record.id,
            key=record.key_name,
            model=model_of(record, self._served_model),
            route=record.route,
            start=record.received_at,
            end=ended_at(record),
            prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens,
            status=record.status,
            hung_up=record.hung_up,
            complete=record.complete and not record.failed,
            final=final,
        )

    def _run(self) -> None:
        next_progress = time.monotonic() + self._progress_s
        while not self._closed.is_set():
            if self._wake.wait(next_progress - time.monotonic()):
                self._wake.clear()
            due = time.monotonic() >= next_progress
            self._write(progress=due and not self._files.behind)
            if due:
                self._files.synchronise()
                next_progress = time.monotonic() + self._progress_s
        self._write(progress=True)
        self._files.synchronise()

    def _write(self, *, progress: bool) -> None:
        with self._lock:
            ended, self._ended = self._ended, []
            running = list(self._running.values()) if progress else []
        # What ends from here on is written by the next call, behind its line of this one.
        lines = [self._line(name, record, final=False) for name, record in running if counts(record)]
        self._files.write(ended + lines)
