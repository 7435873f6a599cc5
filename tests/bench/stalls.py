"""When the machine did not run what was ready to run: how late a process wakes that does nothing but sleep."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.results import Record

SHORTEST_S = 0.02
"""Cores that are only shared wake a sleeper sooner than this."""

# Ends when its standard input does. Readings of `time.monotonic` are those of every process of the machine.
SLEEPER = f"""
import select, sys, time
late = []
began = time.monotonic()
while not select.select([sys.stdin], [], [], 0.01)[0]:
    woken = time.monotonic()
    if woken - began - 0.01 > {SHORTEST_S}:
        late.append((woken, woken - began - 0.01))
    began = time.monotonic()
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
