"""When the machine did not run what was ready to run: how late a process wakes that does nothing but sleep."""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.bench.results import Record

SHORTEST_S = 0.02
"""Cores that are only shared wake a sleeper sooner than this."""

AUTOGROUP_NICE = 5
"""A third of the share of the cores that a session has by default."""

# Ends when its standard input does. Readings of `time.monotonic` are those of every process of the machine.
SLEEPER = f"""
import select, sys, time
late = []
ended = False
while not ended:
    began = time.monotonic()
    ended = select.select([sys.stdin], [], [], 0.01)[0]
    woken = time.monotonic()
    if woken - began - 0.01 > {SHORTEST_S}:
        late.append((woken, woken - began - 0.01))
for each in late:
    print(*each)
"""


class Stall(Record):
    """``ended_s``: a reading of ``time.monotonic``."""

    ended_s: float
    seconds: float


@contextmanager
def watched_stalls() -> Iterator[list[Stall]]:
    """Watches meanwhile; the list is filled when the block ends."""
    found: list[Stall] = []
    command = [sys.executable, "-c", SLEEPER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sleeper:
        yield found
        output, _ = sleeper.communicate()
    for line in output.splitlines():
        ended, seconds = map(float, line.split())
        found.append(Stall(ended_s=ended, seconds=seconds))


def let_this_session_first(servers: Iterable[psutil.Process]) -> None:
    """Give the sessions of ``servers`` a smaller share of the cores than this one (sched(7), autogroup).

    With equal shares Linux 6.18 kept this session waiting for up to 4.5 s beside an engine that keeps every core busy,
    and what a client then measures is its own wait. Does nothing where the kernel has no autogroups.
    """
    own = os.getsid(0)
    for server in servers:
        with suppress(OSError):
            if os.getsid(server.pid) != own:
                Path(f"/proc/{server.pid}/autogroup").write_text(str(AUTOGROUP_NICE), encoding="ascii")
