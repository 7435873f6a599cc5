"""What this machine lets this process use: cores, memory and GPUs, inside whatever container or job limits hold.

Reads ``/proc``, ``/sys/fs/cgroup`` and ``nvidia-smi``; imports neither torch nor ray, so that planning stays quick.
"""

import logging
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.compiler import can_compile

NVIDIA_SMI = ("nvidia-smi", "--query-gpu=index,uuid,name,memory.total,memory.free", "--format=csv,noheader,nounits")
NVIDIA_SMI_TIMEOUT_S = 10.0
MIB = 1024**2

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """One GPU. Sizes in bytes; 0 where the driver does not tell them (GPUs that share main memory)."""

    name: str
    memory_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Machine:
    """What this process may use. ``cores`` are the ids of cores it may run on; sizes in bytes.

    ``compiles``: torch can compile C++ here (``deploy.compiler``). ``bfloat16``: see ``computes_bfloat16``.
    """

    cores: tuple[int, ...]
    memory_bytes: int
    free_memory_bytes: int
    gpus: tuple[Gpu, ...]
    compiles: bool = True
    bfloat16: bool = True


@dataclass(frozen=True)
class Limits:
    """Limits of the control groups that this process is in; ``None`` where there is none. Sizes in bytes."""

    cores: float | None
    memory_bytes: int | None
    free_memory_bytes: int | None


def measure() -> Machine:
    """Measure the machine as it is now. Takes at most ``NVIDIA_SMI_TIMEOUT_S`` where the GPU's driver hangs."""
    limits = cgroup_limits()
    memory = psutil.virtual_memory()
    return Machine(
        cores=usable_cores(os.sched_getaffinity(0), limits.cores),
        memory_bytes=min_given(memory.total, limits.memory_bytes),
        free_memory_bytes=min_given(memory.available, limits.free_memory_bytes),
        gpus=find_gpus(os.environ.get("CUDA_VISIBLE_DEVICES")),
        compiles=can_compile(),
        bfloat16=computes_bfloat16(),
    )


def computes_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """False where the CPU is an x86 without bfloat16 instructions: converting costs more than float32 does.

    Measured with AVX2 and with AVX-512 alone (docs/plan.md). A CPU with AMX has AVX512_BF16 too.
    """
    flags = next((line.split() for line in _read(cpuinfo).splitlines() if line.startswith("flags")), None)
    return flags is None or "avx512_bf16" in flags


def usable_cores(affinity: set[int], quota: float | None) -> tuple[int, ...]:
    """The cores of ``affinity``, or as many of them as whole cores fit ``quota`` (at least one).

    More threads than the quota has cores would only be throttled together.
    """
    cores = sorted(affinity)
    return tuple(cores if quota is None else cores[: max(1, int(quota))])


def min_given(value: int, limit: int | None) -> int:
    """``value``, or ``limit`` where there is one and it is smaller; never negative."""
    return max(0, value if limit is None else min(value, limit))


def cgroup_limits(root: Path = Path("/")) -> Limits:
    """The tightest limits on the way from this process's control group to the root group.

    Sources: Linux's Documentation/admin-guide/cgroup-v2.rst (``cpu.max``, ``memory.max``), and cgroup-v1/memory.rst and
    scheduler/sched-bwc.rst (``cpu.cfs_quota_us``). Inactive file pages count as free: the kernel drops them first.
    """
    mount = root / "sys/fs/cgroup"
    groups = _groups_of_this_process(root / "proc/self/cgroup")
    if (mount / "cgroup.controllers").exists():
        cpu = memory = mount
        cpu_group = memory_group = groups.get("", "/")
    else:
        cpu, memory = mount / "cpu", mount / "memory"
        cpu_group, memory_group = groups.get("cpu", "/"), groups.get("memory", "/")
    quotas = [quota for group in _ancestors(cpu, cpu_group) if (quota := _cpu_quota(group)) is not None]
    sizes = [size for group in _ancestors(memory, memory_group) if (size := _memory(group)) is not None]
    return Limits(
        cores=min(quotas, default=None),
        memory_bytes=min((limit for limit, _ in sizes), default=None),
        free_memory_bytes=min((limit - used for limit, used in sizes), default=None),
    )


def find_gpus(visible: str | None = None) -> tuple[Gpu, ...]:
    """NVIDIA's GPUs in the driver's order; none without ``nvidia-smi``, and none (with a log line) where it fails.

    ``visible`` means what ``CUDA_VISIBLE_DEVICES`` does: indexes or UUID prefixes; the first unknown one ends the list.
    """
    rows = [row for line in _nvidia_smi().splitlines() if len(row := [cell.strip() for cell in line.split(",")]) == 5]
    if visible is not None:
        rows = _visible(rows, visible)
    return tuple(Gpu(name, _mebibytes(total), _mebibytes(free)) for _, _, name, total, free in rows)


def _visible(rows: list[list[str]], visible: str) -> list[list[str]]:
    chosen: list[list[str]] = []
    for wanted in filter(None, (part.strip() for part in visible.split(","))):
        match = next((row for row in rows if row[0] == wanted or row[1].startswith(wanted)), None)
        if match is None:
            break
        chosen.append(match)
    return chosen


def _nvidia_smi() -> str:
    try:
        process = subprocess.Popen(NVIDIA_SMI, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return ""
    try:
        output, _ = process.communicate(timeout=NVIDIA_SMI_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        # Not waited for: a process stuck inside the driver does not end when it is killed.
        process.kill()
        logger.warning("nvidia-smi gave no answer in %g s: planning without GPUs", NVIDIA_SMI_TIMEOUT_S)
        return ""
    if process.returncode:
        logger.warning("nvidia-smi failed with code %d: planning without GPUs", process.returncode)
        return ""
    return output


def _mebibytes(cell: str) -> int:
    return int(cell) * MIB if cell.isdigit() else 0


def _groups_of_this_process(file: Path) -> dict[str, str]:
    """Control group by controller (``""``: version 2), from ``/proc/self/cgroup`` (cgroups(7))."""
    groups: dict[str, str] = {}
    for line in _read(file).splitlines():
        _, controllers, path = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), path)
    return groups


def _ancestors(mount: Path, group: str) -> Iterator[Path]:
    """The group's directory and those above it; in a container the path may be the host's: only ``mount`` exists."""
    directory = mount / group.lstrip("/")
    while directory != mount:
        yield directory
        directory = directory.parent
    yield mount


def _cpu_quota(group: Path) -> float | None:
    fields = _read(group / "cpu.max").split() or [
        _read(group / "cpu.cfs_quota_us").strip(),
        _read(group / "cpu.cfs_period_us").strip(),
    ]
    quota, period = fields[0], fields[1]
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _memory(group: Path) -> tuple[int, int] | None:
    """The group's limit and what counts against it, in bytes."""
    limit = (_read(group / "memory.max") or _read(group / "memory.limit_in_bytes")).strip()
    used = (_read(group / "memory.current") or _read(group / "memory.usage_in_bytes")).strip()
    if not (limit.isdigit() and used.isdigit()):
        return None
    statistics = dict(line.split() for line in _read(group / "memory.stat").splitlines())
    inactive = int(statistics.get("total_inactive_file") or statistics.get("inactive_file") or 0)
    return int(limit), max(0, int(used) - inactive)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
