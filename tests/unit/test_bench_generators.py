"""Prevents: a comparison of load generators whose errors, CPU times or ratios are not what was measured."""

import json
from pathlib import Path

import pytest

from tests.bench.errors import BenchError
from tests.bench.generators import arrivals, command, measuring
from tests.bench.generators.arrivals import Arrivals
from tests.bench.generators.command import Comparison, arrivals_line, times_ours
from tests.bench.generators.environments import PINS, own_python
from tests.bench.generators.measuring import Figures, Load, measure, sent_by_mock
from tests.bench.generators.tools import OWN, TOOLS, Job, Reported

BY_NAME = {tool.name: tool for tool in TOOLS}


def test_what_was_sent_is_what_a_client_without_error_reports() -> None:
    truth = {
        "a": {"received": 1.0, "times": [1.1, 1.12, 1.14], "complete": True},
        "b": {"received": 1.0, "times": [1.2, 1.24], "complete": True},
    }
    chunks, sent = sent_by_mock(truth)
    assert chunks == 5
    assert [sent.ttft_mean, sent.ttft_p99, sent.gap_mean, sent.gap_p99] == pytest.approx([150, 199, 80 / 3, 39.6])


@pytest.mark.parametrize("truth", [{}, {"a": {"received": 1.0, "times": [1.1], "complete": False}}])
def test_a_load_that_was_not_done_is_no_measurement(truth: dict[str, object]) -> None:
    with pytest.raises(BenchError, match=r"^a request was not answered to its end$"):
        sent_by_mock(truth)


def test_cpu_time_is_the_difference_of_two_loads_and_errors_are_those_of_the_larger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = Load(1000, 5.0, Reported(0, 0, 0, 0), Reported(0, 0, 0, 0))
    large = Load(3000, 5.5, Reported(101, 110, 20.5, 30), Reported(100, 105, 20, 22))
    loads = {2: small, 8: large}
    monkeypatch.setattr(measuring, "_load", lambda *arguments: loads[arguments[-1]])
    figures = measure(BY_NAME[OWN], Path(), Path(), 64, (2, 8))
    assert figures == Figures(
        chunks=3000,
        ttft_mean_error=1,
        ttft_p99_error=5,
        gap_mean_error=0.5,
        gap_p99_error=8,
        cpu_s_per_1000_chunks=0.25,
        start_cpu_s=4.75,
    )


def figures_of(cpu: float) -> Figures:
    return Figures(
        chunks=1,
        ttft_mean_error=0,
        ttft_p99_error=0,
        gap_mean_error=0,
        gap_p99_error=None,
        cpu_s_per_1000_chunks=cpu,
        start_cpu_s=0,
    )


def test_a_ratio_is_taken_within_a_repeat() -> None:
    repeats = {OWN: [figures_of(0.1), figures_of(0.2)], "other": [figures_of(0.3), figures_of(0.4)]}
    comparison = Comparison(
        date="", machine={}, streams=64, rounds=(2, 8), versions={}, repeats=repeats, arrivals=[], did_not_run={}
    )
    ratio = times_ours(comparison, "other")
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((2, 2.5, 3))


def test_the_open_loop_is_shown_with_its_goal() -> None:
    repeats = [
        Arrivals(requested_rate=400, achieved_rate=rate, lag_p50_ms=0.2, lag_p99_ms=lag, cpu_p95=0.5, verdict="VALID")
        for rate, lag in ((399.0, 2.0), (401.5, 3.25), (400.0, 2.5))
    ]
    assert arrivals_line(repeats) == (
        "mistral-serve, open loop at 400 requests/s in one process: 400.0 (399.0–401.5) sent, "
        "dispatch lag p99 2.50 (2.00–3.25) ms (goal: at most 10 ms)"
    )


def test_the_open_loop_asks_for_its_rate_of_a_real_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(arrivals, "FOLDER", tmp_path)
    monkeypatch.setattr(arrivals, "RATE", 20)
    found = arrivals.measure_arrivals(own_python(), 2)
    assert found.requested_rate == 20
    assert found.achieved_rate == pytest.approx(20, abs=4 * (20 / 2) ** 0.5)


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ((OWN, "guidellm", "aiperf"), 0),
        ((OWN, "guidellm"), 1),
        (("vllm bench serve", "guidellm", "aiperf"), 1),
        ((), 1),
    ],
)
def test_a_comparison_takes_ours_and_two_others(
    names: tuple[str, ...],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = Comparison(
        date="",
        machine={},
        streams=64,
        rounds=(2, 8),
        versions=dict.fromkeys(names, "1"),
        repeats={name: [figures_of(0.1)] for name in names},
        arrivals=[],
        did_not_run={},
    )
    monkeypatch.setattr(command, "compare", lambda *_, **__: found)
    assert command.main(["--output", str(tmp_path / "out.json")]) == code
    sentence = "bench: that is no comparison: it takes mistral-serve and at least 2 others\n"
    assert (sentence in capsys.readouterr().err) is (code == 1)


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        (
            OWN,
            "summary.json",
            {"total": {"metrics": {"ttft": {"mean": 1, "p99": 2}, "itl": {"mean": 3, "p99": 4}}}},
        ),
        (
            "vllm bench serve",
            "result.json",
            {"mean_ttft_ms": 1, "p99_ttft_ms": 2, "mean_itl_ms": 3, "p99_itl_ms": 4},
        ),
        (
            "guidellm",
            "result.json",
            {
                "benchmarks": [
                    {
                        "metrics": {
                            "time_to_first_token_ms": {"successful": {"mean": 1, "percentiles": {"p99": 2}}},
                            "inter_token_latency_ms": {"successful": {"mean": 3, "percentiles": {"p99": 9}}},
                        }
                    }
                ]
            },
        ),
        (
            "aiperf",
            "profile_export_aiperf.json",
            {"time_to_first_token": {"avg": 1, "p99": 2}, "inter_chunk_latency": {"avg": 3, "p99": 4}},
        ),
    ],
)
def test_the_result_of_each_generator_is_read(tmp_path: Path, name: str, file: str, content: object) -> None:
    (tmp_path / file).write_text(json.dumps(content))
    assert BY_NAME[name].read(tmp_path) == Reported(1, 2, 3, None if name == "guidellm" else 4)


def test_every_generator_gets_the_same_load() -> None:
    job = Job("http://127.0.0.1:9", Path("/out"), Path("/tokenizer"), streams=64, rounds=8)
    commands = {tool.name: " ".join(tool.command(Path("/bin"), job)) for tool in TOOLS}
    assert " -u 64 -r 64 -t 9s " in commands[OWN]
    assert "--num-prompts 512 --max-concurrency 64" in commands["vllm bench serve"]
    assert "streams=64" in commands["guidellm"]
    assert "count=512" in commands["guidellm"]
    assert "--concurrency 64 --request-count 512" in commands["aiperf"]
    assert all(job.url in command for command in commands.values())


@pytest.mark.parametrize("name", ["guidellm", "aiperf"])
def test_what_another_generator_needs_is_pinned_and_brings_no_cuda(name: str) -> None:
    lines = [line for line in (PINS / f"{name}.txt").read_text().splitlines() if not line.startswith("#")]
    assert all("==" in line for line in lines)
    assert [line for line in lines if line.startswith(f"{name}==")]
    assert not [line for line in lines if line.startswith(("nvidia-c", "triton"))]
