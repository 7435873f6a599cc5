"""One load generator against the mock server: what it reports against what was sent, and the CPU time that it took."""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from loadtest._mock_process import mock_server, take_truth
from tests.bench.errors import BenchError
from tests.bench.generators.environments import FOLDER
from tests.bench.generators.tools import ITL_S, ROOT, TTFT_S, Job, Reported, Tool

TIMEOUT_S = 300.0
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
"""No generator reports to its makers."""


class Figures(BaseModel):
    """One repeat of one generator. Errors in ms: what it reports less what the mock sent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    chunks: int
    """Of the larger load."""
    ttft_mean_error: float
    ttft_p99_error: float
    gap_mean_error: float
    gap_p99_error: float | None
    cpu_s_per_1000_chunks: float
    """From the difference between two loads, so that starting and ending it is not in it."""
    start_cpu_s: float
    """What it takes besides, to start and to end."""


@dataclass(frozen=True)
class Load:
    """One run of a generator: the CPU time of its processes, and what it reports and what was sent, in ms."""

    chunks: int
    cpu_s: float
    reported: Reported
    sent: Reported


def measure(tool: Tool, programs: Path, tokenizer: Path, streams: int, rounds: tuple[int, int]) -> Figures:
    """A small and a large load, each against a mock server of its own.

    Raises:
        BenchError: the generator failed, or did not do the load.
    """
    small, large = (_load(tool, programs, tokenizer, streams, number) for number in rounds)
    each = (large.cpu_s - small.cpu_s) / (large.chunks - small.chunks)
    reported, sent = large.reported, large.sent
    return Figures(
        chunks=large.chunks,
        ttft_mean_error=reported.ttft_mean - sent.ttft_mean,
        ttft_p99_error=reported.ttft_p99 - sent.ttft_p99,
        gap_mean_error=reported.gap_mean - sent.gap_mean,
        gap_p99_error=None if reported.gap_p99 is None else reported.gap_p99 - (sent.gap_p99 or 0.0),
        cpu_s_per_1000_chunks=each * 1000,
        start_cpu_s=small.cpu_s - each * small.chunks,
    )


def _load(tool: Tool, programs: Path, tokenizer: Path, streams: int, rounds: int) -> Load:
    folder = (FOLDER / "runs" / tool.name.replace(" ", "-")).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with mock_server("--ttft-s", f"{TTFT_S}", "--itl-s", f"{ITL_S}") as url:
        job = Job(url, folder, tokenizer, streams, rounds)
        cpu_s = run_to_end(tool.name, tool.command(programs, job), folder)
        truth = take_truth(url)
    try:
        reported = tool.read(folder)
    except (OSError, KeyError, ValueError) as error:
        raise BenchError(f"{tool.name} wrote no result: {error!r}; see {folder}") from error
    chunks, sent = sent_by_mock(truth)
    return Load(chunks, cpu_s, reported, sent)


def run_to_end(name: str, command: list[str], folder: Path) -> float:
    """Run a generator to its end; CPU seconds of it and of the processes that it waited for.

    Raises:
        BenchError: it failed, or did not end.
    """
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | QUIET, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                process.kill()
                raise BenchError(f"{name} did not end within {TIMEOUT_S:g} s; see {log}")
            time.sleep(0.05)
    process.returncode = os.waitstatus_to_exitcode(status)
    # Our own says by 3 that short runs have too few samples for a percentile that nobody asked for.
    if process.returncode not in (0, 3):
        raise BenchError(f"{name} ended with exit code {process.returncode}; see {log}")
    return usage.ru_utime + usage.ru_stime


def sent_by_mock(truth: dict[str, Any]) -> tuple[int, Reported]:
    """The number of chunks, and the latencies that a client without any error would report, in ms.

    Raises:
        BenchError: a request was not answered to its end.
    """
    if not truth or not all(one["complete"] for one in truth.values()):
        raise BenchError("a request was not answered to its end")
    times = [np.array(one["times"]) for one in truth.values()]
    first = np.array([one["times"][0] - one["received"] for one in truth.values()]) * 1000
    gaps = np.concatenate([np.diff(each) for each in times]) * 1000
    return sum(map(len, times)), Reported(
        float(first.mean()), float(np.percentile(first, 99)), float(gaps.mean()), float(np.percentile(gaps, 99))
    )
