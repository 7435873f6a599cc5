"""Memory and CPU time of a family of processes."""

import contextlib
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import psutil

from tests.bench.results import Process

NAME_LENGTH = 40


class Family:
    """A system's processes as they are now, idle; what they took since is told after the load.

    Memory is read from Linux's ``/proc/PID/smaps_rollup``. A process that ends meanwhile is left out.
    """

    def __init__(self, members: Iterable[psutil.Process]) -> None:
        self._machine_before = machine_seconds()
        self._own_before = cpu_seconds(psutil.Process())
        self._idle: dict[psutil.Process, tuple[str, Any, float]] = {}
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                name = describe(member.name(), member.cmdline())
                self._idle[member] = (name, member.memory_full_info(), cpu_seconds(member))

    def after_load(self) -> list[Process]:
        """Every process that is still there, the one with the largest PSS first."""
        found = []
        for member, (name, memory, before) in self._idle.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                cpu_s = round(cpu_seconds(member) - before, 2)
                found.append(Process(name=name, rss_bytes=memory.rss, pss_bytes=memory.pss, cpu_s=cpu_s))
        return sorted(found, key=lambda process: -process.pss_bytes)

    def others_share(self, processes: Iterable[Process]) -> float:
        """The share of the machine's CPU time since then that neither ``processes`` nor this program took, 0 to 1."""
        busy, total = (now - before for now, before in zip(machine_seconds(), self._machine_before, strict=True))
        known = sum(process.cpu_s for process in processes)
        this = psutil.Process()
        if this not in self._idle:
            known += cpu_seconds(this) - self._own_before
        return round(max(0.0, busy - known) / total, 4)


def machine_seconds() -> tuple[float, float]:
    """CPU time of the whole machine since it started: busy (stolen by a hypervisor included), and all (proc(5))."""
    times = psutil.cpu_times()
    total = sum(times) - times.guest - times.guest_nice  # which user and nice time contain
    return total - times.idle - times.iowait, total


def cpu_seconds(process: psutil.Process) -> float:
    """The CPU time of one process since it started, in user and system mode, without its children."""
    times = process.cpu_times()
    return float(times.user + times.system)


def describe(name: str, command: list[str]) -> str:
    """The process's name; of a Python process, the script, module or program text that it runs."""
    if not name.startswith("python"):
        return name
    arguments = [argument for argument in command[1:] if not argument.startswith("-")]
    if not arguments:
        return name
    return arguments[0][:NAME_LENGTH] if "-c" in command else PurePath(arguments[0]).name
