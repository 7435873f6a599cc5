"""Runs ``locust -f loadtest/`` as its user does: a process of its own, with an exit code and a report."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest._files import load, load_summary
from loadtest._run_data import RunData
from loadtest._schema import Summary
from tests.live.deployment import free_port

ROOT = Path(__file__).resolve().parents[1]
FAST = ("--ttft-s", "0.01", "--itl-s", "0.001")
"""Flags of a mock server whose answers a test need not wait for."""


def command(host: str, *flags: str) -> list[str]:
    """A headless run against a server."""
    locust = [sys.executable, "-m", "locust", "-f", f"{ROOT / 'loadtest'}", "--headless", "--only-summary"]
    return [*locust, "--host", host, *with_a_port_to_meet(flags)]


def with_a_port_to_meet(flags: Sequence[str]) -> tuple[str, ...]:
    """``flags``, and a port of their own for several processes: on Locust's they meet those of another test's run."""
    if "--processes" not in flags:
        return tuple(flags)
    port = str(free_port())
    return (*flags, "--master-port", port, "--master-bind-port", port, "--master-bind-host", "127.0.0.1")


def locust(host: str, *flags: str, timeout_s: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    return subprocess.run(
        command(host, *flags),
        cwd=ROOT.parent,
        env=os.environ | {"OPENAI_API_KEY": ""} | environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def latest_s(run: RunData) -> float:
    """By how much later than it was sent a chunk is stamped at most, for it is when it arrives.

    By a hundredth of the window, and by what held the client up.
    """
    return max(sample.loop_lag_s for sample in run.health) + run.window_s / 100


def reported(directory: Path) -> tuple[RunData, Summary]:
    """What a run wrote."""
    return load(directory), load_summary(directory)
