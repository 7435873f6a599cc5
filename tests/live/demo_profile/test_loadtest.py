"""Prevents a load test that measures a mock rightly and the real engine wrongly: tokens, lengths, both
loops; a VALID run that errs more than is promised; and a sweep that does not end."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from loadtest._mock_process import ROOT, mock_server
from loadtest._run_data import RunData
from loadtest._selftest import _one_level
from loadtest._selftest_client import Level
from loadtest._sweep import load
from tests.live.deployment import Deployment
from tests.locust_process import locust, reported

pytestmark = pytest.mark.live

WORKLOADS = {
    "plain": "api: completions\nprompt_tokens: 100\noutput_tokens: 32\n",
    "talk": "api: chat\nprompt_tokens: {distribution: normal, mean: 120, deviation: 20}\noutput_tokens: 24\n",
    "long": "api: completions\nprompt_tokens: 1500\noutput_tokens: 8\n",
    "turns": "api: chat\nturns: 3\nprompt_tokens: 60\nturn_tokens: 20\noutput_tokens: 4\n",
}
# Two trials, of which the second is at the highest rate that is allowed, against a bound that the engine keeps.
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


def counted(run: RunData) -> dict[float, float]:
    """The engine's own count as the scraper saw it every second, by the time since the start of the run."""
    return {one["t"]: one["generation_tokens"] for one in run.server if "generation_tokens" in one}


def test_a_closed_loop_counts_the_tokens_that_the_engine_counts(server: Deployment, workloads: Path) -> None:
    report = workloads / "report"
    flags = ["--workload", str(workloads / "plain.yaml"), "-u", "4", "-t", "20s", "--warmup", "0"]
    before = generated(server)
    result = locust(server.url, "Completion", *flags, "--report", str(report), timeout_s=120)
    run, summary = reported(report)
    assert result.returncode in (0, 3), result.stderr
    assert summary.total.requests.failed == 0
    # The calibration takes a few tokens too.
    assert summary.total.tokens.output == pytest.approx(generated(server) - before, rel=0.01)
    times, tokens = zip(*counted(run).items(), strict=True)
    assert times[-1] >= run.window[1]
    in_window = float(np.diff(np.interp(run.window, times, tokens))[0])
    assert summary.total.throughput.output_tokens_per_s == pytest.approx(in_window / run.window_s, rel=0.01)
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


def test_a_run_of_64_streams_is_truthful_or_does_not_call_itself_valid() -> None:
    with mock_server() as url:
        outcome = _one_level(url, Level(streams=64, tokens_per_s=50, seconds=4))
    assert outcome.failed == 0
    # What else runs on the machine decides which of the two it is; `python -m loadtest selftest` asks for the first.
    if outcome.verdict.level == "VALID":
        assert outcome.ttft_error_p99 <= 0.003, outcome
        assert outcome.itl_error_mean <= 0.001, outcome


def test_a_sweep_of_the_engine_ends_and_names_a_rate(server: Deployment, workloads: Path) -> None:
    command = [sys.executable, "-m", "loadtest", "sweep", "--host", server.url, *SWEEP, "--report", str(workloads)]
    further = ["Completion", "--workload", str(workloads / "plain.yaml")]
    done = subprocess.run([*command, *further], cwd=ROOT, capture_output=True, text=True, timeout=300)
    sweep = load(workloads)
    assert [trial.rate for trial in sweep.trials] == [0.5, 1.0][: len(sweep.trials)]
    assert all(trial.samples > 0 for trial in sweep.trials)
    # The engine shares this machine's cores with the client, whose run then may say that it proves nothing.
    if sweep.ended_by == "untrusted":
        assert sweep.trials[-1].passed is None
    else:
        assert (sweep.ended_by, sweep.sustainable, sweep.binding) == ("high", 1.0, [])
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Sustainable: at least 1 requests/s, which 1 of 1 trial met." in done.stdout
