"""Where a replica's access log goes: to ``serve.py`` through its FIFO, or to the replica's own stderr.

What a Ray worker writes to stderr ends in a file of Ray's. On a cluster that ``serve.py`` started, its child makes a
FIFO (``deploy.access_fifo``) and copies whole lines from it to its own stderr.
"""

import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress

FIFO_VARIABLE = "_MISTRAL_SERVE_ACCESS_FIFO"
"""Environment variable: path of the FIFO that replicas write their lines to."""

LONGEST_LINE = select.PIPE_BUF
"""Bytes that are written to a FIFO in one piece (POSIX, ``write``); lines of several replicas then never mix."""

Sink = Callable[[str], bool]
"""Writes one line, given without its end, and says whether it could; never waits and never raises."""


def sink_from_environment() -> Sink:
    """The FIFO that ``FIFO_VARIABLE`` names; without the variable stderr."""
    path = os.environ.get(FIFO_VARIABLE)
    return to_stderr if path is None else FifoSink(path)


def to_stderr(line: str) -> bool:
    """Write to this process's stderr."""
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        return False
    return True


class FifoSink:
    """A FIFO: nobody reads it, or it is full, and the line is refused. A reader that comes back is found again."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None

    def __call__(self, line: str) -> bool:
        """Write one line of at most ``LONGEST_LINE`` bytes; the rest of a longer one is cut off."""
        content = line.encode(errors="replace")[: LONGEST_LINE - 1] + b"\n"
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
            os.write(self._descriptor, content)
        except BlockingIOError:
            return False
        except OSError:
            self.close()
            return False
        return True

    def close(self) -> None:
        """Close the FIFO; the next line opens it again."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with suppress(OSError):
                os.close(descriptor)
