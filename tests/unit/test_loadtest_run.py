"""Prevents a run that hangs, crashes or keeps silent: whoever spoils it, server, process or user, it has a result.

Every run is Locust itself in a process of its own, against the mock server.
"""

import hashlib
import html
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from loadtest._mock_process import mock_server, read_truth
from tests.locust_process import FAST, ROOT, command, locust, reported
from tests.unit.test_loadtest_arrivals import CRITICAL, kolmogorov_smirnov

DEAD = "http://127.0.0.1:9"
"""Nobody listens on the discard port."""


def write(path: Path, **values: object) -> str:
    path.write_text(yaml.safe_dump({"prompt_tokens": 20, "output_tokens": 8, **values}))
    return str(path)


def lines(text: str) -> list[str]:
    """What the load test itself says on stderr, and errors of the command line."""
    return [line for line in text.splitlines() if line.startswith("loadtest:") or ": error: " in line]


def page_of(directory: Path) -> str:
    """The report's page, with characters instead of entities."""
    return html.unescape((directory / "report.html").read_text(encoding="utf-8"))


# Good runs ----------------------------------------------------------------------------------------------------------


def test_without_any_choice_one_user_chats_and_the_report_is_there(mock: str, report: Path) -> None:
    result = locust(mock, "-t", "2s", "--report", str(report), "--slo", "error_rate<1%")
    run, summary = reported(report)
    assert result.returncode == summary.exit_code
    assert sorted(path.name for path in report.iterdir()) == [
        "health.csv",
        "report.html",
        "requests.csv",
        "run.json",
        "summary.json",
    ]
    assert list(summary.scenarios) == ["chat"]
    assert (run.users, run.processes, run.model, run.arrivals) == (1, 1, "mock", {"kind": "closed"})
    assert summary.total.requests.failed == 0
    assert summary.total.requests.completed > 0
    assert (run.duration_s, run.warmup_s) == (2.0, 0.2)
    assert [result.met for result in summary.objectives] == [True]
    assert "Traceback" not in result.stderr


def test_several_processes_send_together_exactly_the_schedule_of_the_seed(
    mock: str, report: Path, tmp_path: Path
) -> None:
    workload = write(tmp_path / "short.yaml", output_tokens=1)
    flags = ["--workload", workload, "--rate", "150", "-t", "4s", "--warmup", "0", "--seed", "5"]
    result = locust(mock, *flags, "--processes", "2", "--report", str(report))
    run, summary = reported(report)
    records = sorted(run.records, key=lambda record: record.index)
    assert result.returncode == summary.exit_code
    assert [record.index for record in records] == list(range(len(records)))
    assert [record.worker for record in records] == [record.index % 2 for record in records]
    assert {sample.worker for sample in run.health} == {0, 1}
    times = np.array([record.intended for record in records], dtype=np.float64)
    gaps = np.sort(np.diff(times))
    assert kolmogorov_smirnov(gaps, 1 - np.exp(-150 * gaps)) < CRITICAL
    assert len(records) == pytest.approx(600, abs=4 * 600**0.5)
    assert all(record.lag is not None and record.lag >= 0 for record in records)
    assert {record.prompt_tokens for record in records} == {20}


def test_users_of_two_processes_keep_their_conversations(mock: str, report: Path, tmp_path: Path) -> None:
    workload = write(tmp_path / "talk.yaml", turns=3, turn_tokens=10)
    flags = ["--workload", workload, "-u", "4", "-t", "2s", "--processes", "2", "--warmup", "0"]
    locust(mock, *flags, "--report", str(report))
    run, summary = reported(report)
    # The mock counts words: 20 in the first turn; each turn adds the answer's 8 words and a message of 10.
    assert {record.prompt_tokens for record in run.records} == {20, 20 + 8 + 10, 20 + 2 * (8 + 10)}
    assert summary.total.requests.failed == 0
    assert len({record.index for record in run.records}) == len(run.records)


def test_tags_choose_scenarios_which_an_open_loop_mixes(mock: str, report: Path) -> None:
    locust(mock, "--tags", "completion", "cancel", "--rate", "30", "-t", "2s", "--report", str(report))
    run, summary = reported(report)
    assert list(summary.scenarios) == ["cancel", "completion"]
    assert summary.scenarios["cancel"].requests.cancelled > 0
    assert summary.total.requests.failed == 0
    assert run.workload["name"] == "completion+cancel"


def test_a_trace_is_replayed_with_its_lengths_and_times(mock: str, report: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:00:0{second}.5,{100 + second},{5 + second}" for second in range(4)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    locust(mock, "Replay", "--trace", str(trace), "--warmup", "0", "--report", str(report))
    run, _ = reported(report)
    found = [(round(record.intended or 0.0, 3), record.prompt_tokens, record.output_tokens) for record in run.records]
    assert found == [(0.0, 100, 5), (1.0, 101, 6), (2.0, 102, 7), (3.0, 103, 8)]
    assert run.arrivals == {"kind": "trace", "file": str(trace)}
    assert run.workload["trace"] == hashlib.sha256(trace.read_bytes()).hexdigest()


def test_a_key_is_sent_and_never_shown(mock: str, report: Path) -> None:
    result = locust(mock, "-t", "2s", "--report", str(report), "--api-key", "sk-secret-1")
    assert "sk-secret-1" not in result.stdout + result.stderr
    assert [path.name for path in report.iterdir() if "sk-secret-1" in path.read_text()] == []
    assert "--api-key '***'" in json.loads((report / "run.json").read_text())["command"]


def test_past_the_bound_of_requests_in_flight_arrivals_are_dropped_and_counted(
    mock: str, report: Path, tmp_path: Path
) -> None:
    workload = write(tmp_path / "slow.yaml", body={"mock": {"ttft_s": 10}})
    flags = ["--workload", workload, "--arrivals", "constant", "--rate", "20", "-t", "2s", "--max-in-flight", "5"]
    result = locust(mock, *flags, "--stop-timeout", "1", "--report", str(report))
    run, summary = reported(report)
    assert (len(run.records), run.arrivals["dropped"]) == (5, 35)
    assert "35 requests were not sent, because 5 were in flight already" in result.stderr
    detail = "timeout: not answered within 1 s after the end of the run (--stop-timeout)"
    assert {f"{record.error}: {record.detail}" for record in run.records} == {detail}
    assert (result.returncode, summary.verdict.level) == (3, "INVALID")


# Bad servers --------------------------------------------------------------------------------------------------------

FAULTS = {
    "cut": "cut",
    "error_event": "server_event",
    "invalid_utf8": "malformed",
    "malformed_json": "malformed",
    "wrong_event": "malformed",
    "huge_line": "malformed",
    "endless": "malformed",
    "silence": "timeout",
    "not_sse": "malformed",
    "not_http": "malformed",
    "no_finish": "cut",
    "429": "status",
    "500": "status",
}


def test_whatever_a_server_does_wrong_is_counted_and_named(mock: str, report: Path, tmp_path: Path) -> None:
    names = [*FAULTS, "no_usage"]
    for name in names:
        write(tmp_path / f"{name}.yaml", name=name, body={"mock": {"fault": name}})
    mix = tmp_path / "mix.yaml"
    mix.write_text(
        yaml.safe_dump({"mix": [{"workload": str(tmp_path / f"{name}.yaml"), "weight": 1} for name in names]})
    )
    flags = ["--workload", str(mix), "--arrivals", "constant", "--rate", "40", "-t", "3s", "--warmup", "0"]
    locust(mock, *flags, "--request-timeout", "10", "--report", str(report))
    run, summary = reported(report)
    assert len(run.records) == 120
    found = {name: set(figures.requests.errors) for name, figures in summary.scenarios.items()}
    assert found == {**{name: {kind} for name, kind in FAULTS.items()}, "no_usage": set()}
    assert summary.scenarios["no_usage"].tokens.sources == {"chunks": summary.scenarios["no_usage"].requests.sent}
    assert sum(summary.total.requests.errors.values()) == summary.total.requests.failed
    page = page_of(report)
    for kind, count in summary.total.requests.errors.items():
        assert f"<tr><td>{kind}</td><td>{count}</td></tr>" in page
    for detail, count in summary.total.requests.details.items():
        assert f'<tr><td class="wrap">{detail}</td><td>{count}</td></tr>' in page
    assert f"chunks ({summary.scenarios['no_usage'].requests.sent} requests)" in page


def test_a_url_that_leads_elsewhere_is_named_in_the_report(mock: str, report: Path) -> None:
    result = locust(f"{mock}/elsewhere", "-t", "2s", "--rate", "5", "--report", str(report), "--model", "m")
    _, summary = reported(report)
    assert summary.total.requests.details == {"status: HTTP 404: not_found_error": summary.total.requests.sent}
    assert "status: HTTP 404: not_found_error" in page_of(report)
    assert "Traceback" not in result.stderr


def test_a_server_that_is_not_there_is_named_in_a_report(report: Path) -> None:
    result = locust(DEAD, "-t", "2s", "--rate", "5", "--report", str(report))
    _, summary = reported(report)
    assert (result.returncode, summary.verdict.level) == (3, "INVALID")
    assert summary.verdict.reasons[0].check == "server"
    assert list(summary.total.requests.errors) == ["connect"]
    assert "Traceback" not in result.stderr
    assert lines(result.stderr)[0].startswith(f"loadtest: {DEAD}/v1/models does not tell the model (")
    assert summary.verdict.reasons[0].text in page_of(report)


def test_a_server_that_dies_during_the_run_makes_it_invalid(report: Path) -> None:
    with mock_server(*FAST) as url:
        process = start(url, "--rate", "20", "-t", "6s", "--report", str(report))
        wait_until(lambda: len(read_truth(url)) > 5)
        port = int(url.rpartition(":")[2])
        mocks = [one for one in psutil.Process().children() if one.net_connections("tcp")]
        next(one for one in mocks if one.net_connections("tcp")[0].laddr.port == port).kill()
        code = process.wait(timeout=60)
    _, summary = reported(report)
    assert code == 3
    assert [reason.check for reason in summary.verdict.reasons if reason.level == "INVALID"][:1] == ["server"]
    assert "the server stopped answering after" in summary.verdict.reasons[0].text
    assert summary.verdict.reasons[0].text in page_of(report)
    assert set(summary.total.requests.errors) <= {"connect", "cut"}


# Bad flags ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "flags", "sentence"),
    [
        ("127.0.0.1:8000", [], "'127.0.0.1:8000' is no base URL; write it like http://127.0.0.1:8000."),
        (DEAD, ["LongContxt"], "unknown scenario 'LongContxt': did you mean 'LongContext'? locust --list shows all"),
        (DEAD, ["--tags", "chats"], "no scenario has the tag 'chats': did you mean 'chat'?"),
        (DEAD, ["--workload", "pyproject.toml.yaml"], "cannot be read: No such file or directory"),
        (DEAD, ["--slo", "ttft_p95<500"], "needs a unit: write ttft_p95<500ms or ttft_p95<500s"),
        (DEAD, ["--arrivals", "spikes", "--rate", "1"], "these --arrivals need --peak, requests/s"),
        (DEAD, ["Replay", "--processes", "2"], "takes its lengths from a trace: give --trace FILE"),
        (DEAD, ["-t", "3s", "--warmup", "3"], "leave nothing of the 3 s of the run to be measured"),
        (DEAD, ["--slo", "error_rate<5"], "'error_rate<5' exceeds 100%: write a percentage such as 0.1%"),
        (DEAD, ["--steps", "2:30", "-t", "3s"], "--steps needs --arrivals steps"),
        (DEAD, ["--burstiness", "0.5", "--rate", "2", "-t", "3s"], "--burstiness needs --arrivals gamma"),
        (DEAD, ["--api-key", "sk-1\r", "-t", "3s"], "check for a line break in it."),
        (
            DEAD,
            ["--server-metrics", "http://[::1/metrics", "-t", "3s"],
            "--server-metrics 'http://[::1/metrics' is no address: write http://HOST:PORT/metrics",
        ),
    ],
)
def test_a_wrong_flag_is_one_sentence_and_exit_code_2(host: str, flags: list[str], sentence: str) -> None:
    result = locust(host, *flags)
    assert result.returncode == 2
    (line,) = lines(result.stderr)
    assert line.endswith(sentence)
    assert "Traceback" not in result.stderr
    assert "sk-1" not in result.stderr


def test_a_mistake_of_this_program_does_not_leave_a_run_that_never_ends(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("from loadtest import _session\nfrom loadtest.scenarios import *\n_session.resolve = None\n")
    result = locust(DEAD, "-f", str(file), "-t", "1s", timeout_s=30, PYTHONPATH=str(ROOT))
    assert result.returncode == 3
    assert "TypeError" in result.stderr


# Interruptions ------------------------------------------------------------------------------------------------------


def start(host: str, *flags: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(host, *flags),
        cwd=ROOT.parent,
        env=os.environ | {"OPENAI_API_KEY": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("processes", [[], ["--processes", "2"]])
def test_an_interrupted_run_ends_with_its_result(report: Path, tmp_path: Path, processes: list[str]) -> None:
    workload = write(tmp_path / "slow.yaml", output_tokens=100000, body={"mock": {"itl_s": 0.01}})
    with mock_server() as url:
        process = start(url, "--workload", workload, "-u", "4", "-r", "4", "--report", str(report), *processes)
        wait_until(lambda: sum(not truth["complete"] for truth in read_truth(url).values()) == 4)
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
    _, summary = reported(report)
    assert code == summary.exit_code
    assert (summary.total.requests.sent, summary.total.requests.cancelled) == (4, 4)


def test_a_worker_that_is_killed_leaves_a_run_that_ends_and_says_so(report: Path) -> None:
    with mock_server(*FAST) as url:
        process = start(url, "--rate", "40", "-t", "8s", "--processes", "2", "--report", str(report), "--warmup", "0")
        wait_until(lambda: len(read_truth(url)) > 10)
        psutil.Process(process.pid).children()[0].kill()
        code = process.wait(timeout=60)
    run, summary = reported(report)
    assert code == 3
    assert run.processes == 2
    assert "rate" in {reason.check for reason in summary.verdict.reasons}
