"""Prevents a load test that measures a mock rightly and the real engine wrongly: tokens, lengths, both loops."""

import re
from pathlib import Path

import httpx
import pytest

from tests.live.deployment import Deployment
from tests.locust_process import locust, reported

pytestmark = pytest.mark.live

WORKLOADS = {
    "plain": "api: completions\nprompt_tokens: 100\noutput_tokens: 32\n",
    "talk": "api: chat\nprompt_tokens: {distribution: normal, mean: 120, deviation: 20}\noutput_tokens: 24\n",
    "long": "api: completions\nprompt_tokens: 1500\noutput_tokens: 8\n",
    "turns": "api: chat\nturns: 3\nprompt_tokens: 60\nturn_tokens: 20\noutput_tokens: 16\n",
}


@pytest.fixture
def workloads(tmp_path: Path) -> Path:
    for name, text in WORKLOADS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def generated(server: Deployment) -> float:
    """The engine's own count of output tokens."""
    page = httpx.get(f"{server.url}/metrics", timeout=30).text
    return sum(float(value) for value in re.findall(r"^vllm:generation_tokens_total\{.*\} (\S+)$", page, re.MULTILINE))


def test_a_closed_loop_counts_the_tokens_that_the_engine_counts(server: Deployment, workloads: Path) -> None:
    report = workloads / "report"
    flags = ["--workload", str(workloads / "plain.yaml"), "-u", "4", "-t", "12s", "--warmup", "0"]
    result = locust(server.url, "Completion", *flags, "--report", str(report), timeout_s=120)
    run, summary = reported(report)
    assert result.returncode in (0, 3), result.stderr
    assert summary.total.requests.failed == 0
    # The scraper's first look is at the start of the run, after the calibration's few tokens.
    by_engine = generated(server) - next(one["generation_tokens"] for one in run.server if "generation_tokens" in one)
    assert summary.total.tokens.output == pytest.approx(by_engine, rel=0.01)
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


@pytest.mark.parametrize("name", ["long", "turns"])
def test_long_prompts_and_conversations_are_answered(server: Deployment, workloads: Path, name: str) -> None:
    report = workloads / "report"
    flags = ["--workload", str(workloads / f"{name}.yaml"), "-u", "2", "-t", "6s", "--warmup", "0"]
    result = locust(server.url, *flags, "--report", str(report), timeout_s=120)
    run, summary = reported(report)
    assert result.returncode in (0, 3), result.stderr
    assert summary.total.requests.failed == 0
    if name == "long":
        assert {record.prompt_tokens for record in run.records} == {1500}
    else:
        # The second turn of a conversation holds the first one, its answer and the new message.
        longest = max(record.prompt_tokens or 0 for record in run.records)
        assert longest > 60 + 16 + 20
