"""Brings the replicas' access log to stderr: a FIFO that they write to, and a thread that copies its lines.

``deploy.gateway.log_sink`` is the other end.
"""

import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

READ_BYTES = 64 * 1024
"""What one read takes at most: the whole of a FIFO of Linux's default size (pipe(7))."""

PATIENCE_S = 2.0
"""How long the end of the copying is waited for: stderr may be a pipe that nobody reads any more."""

Output = Callable[[bytes], object]


@contextmanager
def reader(path: Path, output: Output | None = None) -> Iterator[None]:
    """Make the FIFO ``path``, for this user only, and copy its lines until the context ends.

    What was written before then is still copied. ``output`` takes whole lines; without it they go to stderr. When it
    fails, the lines are read and lost, so that no writer ever finds the FIFO full for that reason.

    Raises:
        OSError: the FIFO cannot be made.
    """
    os.mkfifo(path, 0o600)
    # Open for writing too (fifo(7)): the FIFO then never comes to an end, however many replicas come and go.
    fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    stopped, stop = os.pipe()
    copier = _Copier(fifo, stopped, output or _to_stderr)
    thread = threading.Thread(target=copier.run, name="access-log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(stop)
        thread.join(PATIENCE_S)
        path.unlink(missing_ok=True)


def _to_stderr(lines: bytes) -> None:
    sys.stderr.buffer.write(lines)
    sys.stderr.buffer.flush()


class _Copier:
    """The thread. It closes its descriptors itself, because it may outlive the wait for it."""

    def __init__(self, fifo: int, stopped: int, output: Output) -> None:
        self._fifo, self._stopped, self._output = fifo, stopped, output
        self._rest = b""

    def run(self) -> None:
        """Copy until the other end of ``stopped`` is closed and the FIFO is empty."""
        try:
            while True:
                ready, _, _ = select.select([self._fifo, self._stopped], [], [])
                # Looked at before reading: what was written before the end is read after it was noticed.
                self._copy()
                if self._stopped in ready:
                    return
        finally:
            os.close(self._fifo)
            os.close(self._stopped)

    def _copy(self) -> None:
        while True:
            try:
                content = os.read(self._fifo, READ_BYTES)
            except BlockingIOError:
                return
            lines, end, self._rest = (self._rest + content).rpartition(b"\n")
            with suppress(OSError, ValueError):
                self._output(lines + end)
