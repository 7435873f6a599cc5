"""Prevents a load test that measures a mock rightly and the real engine wrongly: tokens, lengths, both
loops; a VALID run that errs more than is promised; and a sweep that does not end."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from loadtest._health import TICK_S
from loadtest._mock_process import ROOT, mock_server
from loadtest._run_data import RunData
from loadtest._selftest import _one_level
from loadtest._selftest_client import Level
from loadtest._sweep import load
from loadtest._sweep_search import STEADY_STATE
from tests.live.deployment import Deployment
from tests.locust_process import latest_s, locust, reported

pytestmark = pytest.mark.live

WORKLOADS = {
    "plain": "api: completions\nprompt_tokens: 100\noutput_tokens: 32\n",
    "talk": "api: chat\nprompt_tokens: {distribution: normal, mean: 120, deviation: 20}\noutput_tokens: 24\n",
    "long": "api: completions\nprompt_tokens: 1500\noutput_tokens: 8\n",
    "short": "api: completions\nprompt_tokens: 16\noutput_tokens: 4\n",
    "turns": "api: chat\nturns: 3\nprompt_tokens: 60\nturn_tokens: 20\noutput_tokens: 4\n",
}
# Two trials, of which the second is at the highest rate that is allowed, against a bound that any engine keeps.
SWEEP = ["--low", "0.5", "--high", "1", "--duration", "6", "--warmup", "0", "--repeats", "1", "--slo", "ttft_p95<60s"]


@pytest.fixture
def workloads(tmp_path: Path) -> Path:
    for name, text in WORKLOADS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def generated(server: Deployment) -> float:
    """The engine's own count of output tokens."""
    page = httpx.get(f"{server.url}/metrics", timeout=30).text
    return sum(float(value) for value in re.findall(r"^vllm:generation_tokens_total\{.*\} (\S+)$", page, re.MULTILINE))


@dataclass(frozen=True)
class Look:
    """At the engine's own count: it was ``tokens`` at a moment between ``begun`` and ``ended``, s since the epoch."""

    begun: float
    tokens: float
    ended: float


@contextmanager
def looked_at(server: Deployment) -> Iterator[list[Look]]:
    """Looks at the count four times a second, until the end."""
    looks: list[Look] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.25):
            begun = time.time()
            tokens = generated(server)
            looks.append(Look(begun, tokens, time.time()))

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            yield looks
        finally:
            over.set()
            looking.result()


def at_least(looks: list[Look], run: RunData, moment: float) -> float:
    """The fewest tokens that the engine can have counted by a moment of a run, s since its start."""
    return max(one.tokens for one in looks if one.ended <= run.started_wall + moment)


def at_most(looks: list[Look], run: RunData, moment: float) -> float:
    """The most tokens that the engine can have counted by a moment of a run, s since its start."""
    return min(one.tokens for one in looks if one.begun >= run.started_wall + moment)


def test_a_closed_loop_counts_the_tokens_that_the_engine_counts(server: Deployment, workloads: Path) -> None:
    report = workloads / "report"
    flags = ["--workload", str(workloads / "plain.yaml"), "-u", "4", "-t", "20s", "--warmup", "0"]
    before = generated(server)
    with looked_at(server) as looks:
        result = locust(server.url, "Completion", *flags, "--report", str(report), timeout_s=120)
    run, summary = reported(report)
    assert result.returncode in (0, 3), result.stderr
    assert summary.total.requests.failed == 0
    # The calibration takes a few tokens too.
    assert summary.total.tokens.output == pytest.approx(generated(server) - before, rel=0.01)
    assert max(sample["t"] for sample in run.server if "generation_tokens" in sample) >= run.window[1]
    start, end = run.window
    least = at_least(looks, run, end - latest_s(run)) - at_most(looks, run, start)
    most = at_most(looks, run, end) - at_least(looks, run, start)
    measured = summary.total.throughput.output_tokens_per_s
    assert measured is not None
    assert least <= measured * run.window_s <= most
    assert summary.total.tokens.sources == {"continuous_usage": len(run.records)}
    assert {record.output_tokens for record in run.records} == {32}
    assert {record.prompt_tokens for record in run.records} == {100}
    assert summary.total.tokens.prefix_hit_rate in (0.0, None)


def test_an_open_loop_in_two_processes_sends_its_schedule(server: Deployment, workloads: Path) -> None:
    report = workloads / "report"
    flags = ["--workload", str(workloads / "talk.yaml"), "--arrivals", "constant", "--rate", "2", "-t", "10s"]
    result = locust(server.url, *flags, "--processes", "2", "--warmup", "0", "--report", str(report), timeout_s=120)
    run, summary = reported(report)
    assert result.returncode in (0, 3), result.stderr
    assert summary.total.requests.failed == 0
    assert [record.intended for record in sorted(run.records, key=lambda one: one.index)] == [
        pytest.approx(index / 2, abs=1e-3) for index in range(20)
    ]
    assert {record.worker for record in run.records} == {0, 1}
    assert all(record.prompt_tokens == record.expected_prompt_tokens for record in run.records)
    assert {record.output_tokens for record in run.records} == {24}


@pytest.mark.parametrize(("name", "seconds"), [("long", 5), ("turns", 10)])
def test_long_prompts_and_conversations_are_answered(
    server: Deployment, workloads: Path, name: str, seconds: int
) -> None:
    report = workloads / "report"
    flags = ["--workload", str(workloads / f"{name}.yaml"), "-u", "2", "-t", f"{seconds}s", "--warmup", "0"]
    result = locust(server.url, *flags, "--report", str(report), timeout_s=120)
    run, summary = reported(report)
    assert result.returncode in (0, 3), result.stderr
    assert summary.total.requests.failed == 0
    if name == "long":
        assert {record.prompt_tokens for record in run.records} == {1500}
    else:
        # The second turn of a conversation holds the first one, its answer and the new message.
        longest = max(record.prompt_tokens or 0 for record in run.records)
        assert longest >= 60 + 4 + 20


def test_a_run_of_64_streams_errs_no_more_than_it_was_held_up_or_does_not_call_itself_valid() -> None:
    """What else runs on the machine decides which of them it is; `python -m loadtest selftest` asks for more."""
    level = Level(streams=64, tokens_per_s=50, seconds=4)
    with mock_server() as url:
        outcome = _one_level(url, level)
    assert outcome.failed == 0
    if outcome.verdict.level != "VALID":
        return
    assert outcome.ttft_error_p50 <= 0.003, outcome
    # It looks at itself every TICK_S, and may have been held up for so much longer than it saw.
    held_up = outcome.loop_lag_max + TICK_S
    if held_up < 1 / level.tokens_per_s:
        assert outcome.ttft_error_p99 <= 0.003, outcome
        assert outcome.itl_error_mean <= 0.001, outcome
    else:
        # It may have read two chunks of a stream at once, and then knows only when the later one came.
        assert outcome.ttft_error_p99 <= 0.003 + held_up, outcome


def test_a_sweep_of_the_engine_ends_and_names_a_rate(server: Deployment, workloads: Path) -> None:
    command = [sys.executable, "-m", "loadtest", "sweep", "--host", server.url, *SWEEP, "--report", str(workloads)]
    further = ["Completion", "--workload", str(workloads / "short.yaml")]
    done = subprocess.run([*command, *further], cwd=ROOT, capture_output=True, text=True, timeout=300)
    sweep = load(workloads)
    assert all(trial.samples > 0 for trial in sweep.trials)
    # The engine shares this machine's cores with the client, whose run then may say that it proves nothing.
    proven = [trial for trial in sweep.trials if trial.passed is not None]
    if sweep.ended_by == "untrusted":
        assert sweep.trials[-1].passed is None
        assert done.returncode == 3, done.stdout + done.stderr
    elif all(trial.passed for trial in proven):
        assert [trial.rate for trial in proven] == [0.5, 1.0]
        assert (sweep.ended_by, sweep.sustainable, sweep.binding) == ("high", 1.0, [])
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Sustainable: at least 1 requests/s, which 1 of 1 trial met." in done.stdout
    else:
        # So it may for the engine: requests that wait while it is held up are a queue that grows.
        assert sweep.binding == [STEADY_STATE]
        assert sweep.ended_by in ("low", "precision")
