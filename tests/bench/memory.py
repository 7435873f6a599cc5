"""Memory of a family of processes."""

from collections.abc import Iterable
from pathlib import PurePath

import psutil

from tests.bench.results import ProcessMemory

NAME_LENGTH = 40


def memory_of(family: Iterable[psutil.Process]) -> list[ProcessMemory]:
    """RSS and PSS of each process that is still there (Linux's ``/proc/PID/smaps_rollup``), largest PSS first."""
    found = []
    for process in family:
        try:
            memory = process.memory_full_info()
            name = describe(process.name(), process.cmdline())
        except psutil.NoSuchProcess:
            continue
        found.append(ProcessMemory(name=name, rss_bytes=memory.rss, pss_bytes=memory.pss))
    return sorted(found, key=lambda process: -process.pss_bytes)


def describe(name: str, command: list[str]) -> str:
    """The process's name; of a Python process, the script, module or program text that it runs."""
    if not name.startswith("python"):
        return name
    arguments = [argument for argument in command[1:] if not argument.startswith("-")]
    return PurePath(arguments[0]).name[:NAME_LENGTH] if arguments else name
