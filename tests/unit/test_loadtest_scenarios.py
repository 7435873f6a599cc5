"""Prevents a scenario that does not send what its name says, or that Locust's own means cannot choose.

Every run is Locust itself in a process of its own, against the mock server.
"""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from loadtest._mock_process import mock_server, read_truth
from loadtest._request import ClockAnchor
from loadtest._run_data import RunData
from loadtest._schema import Summary
from tests.live.deployment import free_port
from tests.locust_process import FAST, ROOT, latest_s, locust, reported

OPEN = ("--arrivals", "constant", "-t", "2s", "--warmup", "0")


def run(host: str, report: Path, *flags: str) -> tuple[RunData, Summary]:
    """A run without a failed request, unless the caller looks for them, and with the exit code of its summary."""
    result = locust(host, *flags, "--report", str(report))
    data, summary = reported(report)
    assert result.returncode == summary.exit_code, result.stderr
    assert "Traceback" not in result.stderr
    return data, summary


# What each one sends: chat and replay are in test_loadtest_run.py -----------------------------------------------------


def prompts(data: RunData) -> list[int]:
    """Their lengths as the server counted them, in the order of sending."""
    return [record.prompt_tokens or 0 for record in data.records]


def is_completion(data: RunData, summary: Summary) -> bool:
    lengths = {(record.api, record.prompt_tokens, record.output_tokens) for record in data.records}
    return lengths == {("completions", 256, 128)} and summary.total.tokens.output == 128 * len(data.records)


def is_long_context(data: RunData, _: Summary) -> bool:
    return min(prompts(data)) > 4096 and len(set(prompts(data))) > 1


def is_shared_prefix(data: RunData, _: Summary) -> bool:
    return min(prompts(data)) >= 1088 and {record.expected_prompt_tokens for record in data.records} == {*prompts(data)}


def is_mixed(data: RunData, summary: Summary) -> bool:
    sent = {name: figures.requests.sent for name, figures in summary.scenarios.items()}
    return sent.keys() == {"chat", "completion", "long-context"} and sent["chat"] > sent["completion"] > 0


def is_cancel(data: RunData, summary: Summary) -> bool:
    hung_up = {record.output_tokens for record in data.records if record.error == "cancelled"}
    requests = summary.total.requests
    return hung_up == {16} and requests.cancelled > 0 and requests.completed > 0


@pytest.mark.parametrize(
    ("scenario", "rate", "is_so"),
    [
        ("Completion", "10", is_completion),
        ("LongContext", "10", is_long_context),
        ("SharedPrefix", "10", is_shared_prefix),
        ("Mixed", "60", is_mixed),
        ("Cancel", "20", is_cancel),
    ],
)
def test_a_scenario_sends_what_its_name_says(
    mock: str, report: Path, scenario: str, rate: str, is_so: Callable[[RunData, Summary], bool]
) -> None:
    data, summary = run(mock, report, scenario, *OPEN, "--rate", rate)
    assert len(data.records) == 2 * int(rate)
    assert summary.total.requests.failed == 0
    assert is_so(data, summary), summary.model_dump_json(indent=1)


def test_the_later_turns_of_a_chat_have_longer_prompts(mock: str, report: Path) -> None:
    flags = ("-u", "1", "-t", "3s", "--think-time", "0", "--warmup", "0")
    data, summary = run(mock, report, "MultiTurn", *flags)
    assert summary.total.requests.failed == 0
    lengths = prompts(data)
    turn = [number % 6 for number in range(len(lengths))]
    assert {length for number, length in zip(turn, lengths, strict=True) if number == 0} == {96}
    # Each turn adds the answer's 96 words and a message of 16 or more.
    grown = [b - a for number, a, b in zip(turn[1:], lengths, lengths[1:], strict=False) if number]
    assert grown
    assert min(grown) >= 96 + 16


def test_an_overloaded_server_s_refusals_are_named(report: Path) -> None:
    # Two of them run for 0.18 s each: 11 requests/s.
    with mock_server("--ttft-s", "0.05", "--itl-s", "0.001", "--slots", "2", "--queue", "2") as url:
        flags = ("--rate", "5", "--peak", "60", "-t", "3s", "--warmup", "0")
        data, summary = run(url, report, "Overload", *flags)
    requests = summary.total.requests
    assert data.arrivals["kind"] == "ramp"
    assert requests.completed > 0
    assert requests.failed > 0
    assert requests.errors == {"status": requests.failed}
    assert requests.details == {"status: HTTP 429: rate_limit_exceeded, retry after 2 s": requests.failed}
    assert {record.status for record in data.records} == {200, 429}


# How they are chosen --------------------------------------------------------------------------------------------------


def test_class_names_choose_scenarios(mock: str, report: Path) -> None:
    _, summary = run(mock, report, "Completion", "Cancel", *OPEN, "--rate", "20")
    assert list(summary.scenarios) == ["cancel", "completion"]


def test_the_class_picker_chooses_scenarios(mock: str, report: Path) -> None:
    port = free_port()
    flags = ["--class-picker", "--web-host", "127.0.0.1", "--web-port", f"{port}"]
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest"), "--host", mock, *flags]
    picked = {"user_classes": "Completion", "user_count": "1", "spawn_rate": "1", "run_time": "2s", "host": mock}
    with subprocess.Popen(
        [*command, "--report", str(report)],
        cwd=ROOT.parent,
        env=os.environ | {"OPENAI_API_KEY": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            page = f"http://127.0.0.1:{port}"
            assert '"LongContext"' in when_it_answers(page, process)
            form = urllib.parse.urlencode(picked).encode()
            urllib.request.urlopen(f"{page}/swarm", form, timeout=30).close()
            wait_for(report / "summary.json", process)
        finally:
            process.kill()
    _, summary = reported(report)
    assert list(summary.scenarios) == ["completion"]
    assert summary.total.requests.completed > 0


def wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not file.exists() or not file.read_text().endswith("\n"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def when_it_answers(url: str, process: subprocess.Popen[bytes]) -> str:
    """The page, as soon as Locust serves it."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return str(answer.read(), "utf-8")
        except urllib.error.URLError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)


# What they say of the server ------------------------------------------------------------------------------------------


def test_tokens_per_second_are_those_that_the_server_sent_in_the_window(report: Path, tmp_path: Path) -> None:
    workload = tmp_path / "long.yaml"
    # Answers of 2 s: the window of 4 s cuts through many of them.
    workload.write_text(yaml.safe_dump({"prompt_tokens": 20, "output_tokens": 100, "body": {"mock": {"itl_s": 0.02}}}))
    with mock_server(*FAST) as url:
        flags = ("--workload", str(workload), "-u", "8", "-r", "8", "-t", "6s", "--warmup", "1", "--cooldown", "1")
        data, summary = run(url, report, *flags)
        truth = read_truth(url)
    anchor = ClockAnchor.now()
    times = np.concatenate([one["times"] for one in truth.values()]) - anchor.perf + anchor.wall - data.started_wall
    start, end = data.window
    assert (start, end) == (1.0, 5.0)
    late = latest_s(data)
    least, most = (np.count_nonzero((times >= start - early) & (times <= end - (late - early))) for early in (0, late))
    measured = summary.total.throughput.output_tokens_per_s
    assert measured is not None
    assert least <= measured * data.window_s <= most
