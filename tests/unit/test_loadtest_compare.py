"""Prevents: a regression that passes, and two runs of one thing that are said to differ."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest.__main__ import main
from loadtest._compare_statistics import Change, changes
from loadtest._files import write
from loadtest._request import ErrorKind, Record
from loadtest._run_data import RunData
from loadtest._summary import build
from tests.unit.loadtest_runs import failure, record, run_of, steady_run

Compare = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the page, and with a quarter of the resamples: no outcome here is so close that it needs them all."""
    monkeypatch.setattr("loadtest._compare_statistics.RESAMPLES", 500)
    monkeypatch.setattr("loadtest._files.write_report", lambda *_: None)
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Compare:
    """Writes the runs of both sides, compares them with the verb, and returns its exit code and output."""

    def compared(a: list[RunData], b: list[RunData], *flags: str) -> tuple[int, str]:
        for side, runs in (("a", a), ("b", b)):
            for number, run in enumerate(runs):
                write(run, build(run, ["ttft_p95<1s"]), tmp_path / side / str(number))
        code = main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), *flags])
        return code, capsys.readouterr().out

    return compared


def slower(factor: float) -> Callable[[float], Record]:
    random = np.random.default_rng(11)
    return lambda sent: record(sent=sent, ttft=float(random.gamma(16, 0.00625)) * factor, gap=0.02 * factor)


def judged(a: list[RunData], b: list[RunData], tolerance: float = 0.02) -> dict[str, str]:
    return {change.metric: change.judged(tolerance) for change in changes(a, b)}


def test_every_metric_with_samples_enough_is_compared() -> None:
    metrics = ["ttft_p50", "ttft_p95", "itl_p50", "itl_p95", "itl_p99", "e2e_p50", "e2e_p95"]
    assert list(judged([steady_run()], [steady_run(8)])) == [*metrics, "error_rate", "output_tokens_per_s"]
    few = [run_of([record(sent=10.0 + n) for n in range(20)])]
    assert list(judged([steady_run()], few)) == [
        *("ttft_p50", "itl_p50", "itl_p95", "e2e_p50", "error_rate", "output_tokens_per_s")
    ]


def test_two_sides_that_are_alike_differ_in_nothing() -> None:
    assert set(judged([steady_run(1), steady_run(2)], [steady_run(3), steady_run(4)]).values()) == {"same"}


def test_a_slower_side_is_worse_and_the_other_way_round_better() -> None:
    a, b = [steady_run(1, slower(1))], [steady_run(1, slower(1.3))]
    latencies = [f"{name}_{q}" for name in ("ttft", "itl", "e2e") for q in ("p50", "p95")]
    worse, better = judged(a, b), judged(b, a)
    assert {worse[name] for name in latencies} == {"worse"}
    assert {better[name] for name in latencies} == {"better"}
    assert worse["error_rate"] == worse["output_tokens_per_s"] == "same"


def test_the_change_is_that_of_the_figures() -> None:
    a, b = [steady_run(1, slower(1))], [steady_run(1, slower(1.3))]
    found = {change.metric: change for change in changes(a, b)}["ttft_p95"]
    before, after = (build(side[0], []).total.metrics.ttft.p95 for side in (a, b))
    assert (found.a, found.b) == (before, after)
    assert found.change == pytest.approx(0.3)
    assert found.low < 0.3 < found.high


def test_a_change_within_the_tolerance_is_none() -> None:
    a, b = [steady_run(1, slower(1))], [steady_run(1, slower(1.03))]
    # Every gap is exactly 20 and 20.6 ms: the interval has no width.
    assert (judged(a, b, 0.02)["itl_p50"], judged(a, b, 0.04)["itl_p50"]) == ("worse", "same")


def test_fewer_tokens_per_second_are_worse() -> None:
    half = steady_run(1, rate=5.0)
    found = judged([steady_run(1)], [half])
    assert found["output_tokens_per_s"] == "worse"
    assert judged([half], [steady_run(1)])["output_tokens_per_s"] == "better"


def test_any_rise_of_the_error_rate_is_worse_where_it_is_certain() -> None:
    def failing(share: float) -> RunData:
        random = np.random.default_rng(3)
        return steady_run(
            1, lambda sent: failure(ErrorKind.STATUS, sent) if random.random() < share else record(sent=sent)
        )

    assert judged([failing(0)], [failing(0.05)])["error_rate"] == "worse"
    assert judged([failing(0.05)], [failing(0)])["error_rate"] == "better"
    assert judged([failing(0.05)], [failing(0.05)])["error_rate"] == "same"


def test_runs_that_differ_among_themselves_prove_nothing() -> None:
    # Each run is exact in itself, so their own intervals are narrow; the runs of one side lie 40 % apart.
    a = [steady_run(n, slower(factor)) for n, factor in enumerate((1.0, 1.4))]
    b = [steady_run(n, slower(factor)) for n, factor in enumerate((1.1, 1.5))]
    assert judged(a, b)["itl_p50"] == "same"
    assert judged(a[:1], b[:1])["itl_p50"] == "worse"


def test_a_side_of_a_long_run_is_thinned_out_without_changing_the_figure() -> None:
    run = run_of([record(sent=10.0 + n / 10, gaps=[(0.02, 1)] * 1000, tokens=1001) for n in range(200)])
    found = {change.metric: change for change in changes([run], [run])}["itl_p99"]
    assert found.a == pytest.approx(20)
    assert (found.low, found.high) == (0, 0)


@pytest.mark.parametrize(
    ("low", "high", "larger_is", "word"),
    [
        (0.03, 0.05, "worse", "worse"),
        (0.01, 0.05, "worse", "same"),
        (-0.05, -0.03, "worse", "better"),
        (-0.05, -0.03, "better", "worse"),
        (0.03, 0.05, "better", "better"),
        (-0.05, 0.05, "better", "same"),
    ],
)
def test_the_whole_interval_must_lie_beyond_the_tolerance(low: float, high: float, larger_is: Any, word: str) -> None:
    assert Change("ttft_p50", 1, 1, 0, low, high, larger_is).judged(0.02) == word


def test_the_verb_passes_a_side_that_is_no_worse(compare: Compare) -> None:
    code, text = compare([steady_run(1), steady_run(2)], [steady_run(3), steady_run(4)])
    assert code == 0
    assert text.rstrip().endswith("B is no worse.")
    assert "A: 2 runs, B: 2 runs" in text
    assert "One run on a side" not in text


def test_the_verb_fails_a_side_that_is_worse(compare: Compare) -> None:
    code, text = compare([steady_run(1, slower(1))], [steady_run(1, slower(1.3))])
    assert code == 1
    assert text.rstrip().endswith("B is worse: ttft_p50, ttft_p95, itl_p50, itl_p95, itl_p99, e2e_p50, e2e_p95.")
    assert "One run on a side: how runs differ from each other is not in the intervals; repeat them." in text
    row = next(line for line in text.splitlines() if "itl_p50" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        *("itl_p50", "20.0", "26.0", "+30.0 %", "+30.0 to +30.0 %", "worse")
    ]


def test_a_larger_tolerance_lets_more_pass(compare: Compare) -> None:
    a, b = [steady_run(1, slower(1))], [steady_run(1, slower(1.03))]
    assert compare(a, b)[0] == 1
    assert compare(a, b, "--tolerance", "0.5")[0] == 0


@pytest.mark.parametrize(
    ("changes_", "text"),
    [
        ({"workload": {"name": "long", "hash": "abc", "parameters": {"output_tokens": 11}}}, "workload: chat and long"),
        ({"workload": {"name": "chat", "hash": "d", "parameters": {"output_tokens": 11}}}, "workload hash: abc and d"),
        (
            {"workload": {"name": "chat", "hash": "abc", "parameters": {"output_tokens": 12}}},
            "workload parameters: {'output_tokens': 11} and {'output_tokens': 12}",
        ),
        (
            {"arrivals": {"kind": "poisson", "rate": 11.0, "seed": 7}},
            "arrivals: {'kind': 'poisson', 'rate': 10.0} and {'kind': 'poisson', 'rate': 11.0}",
        ),
        ({"users": 5}, "users: None and 5"),
        (
            {"workload": {"name": "chat", "hash": "abc", "trace": "e", "parameters": {"output_tokens": 11}}},
            "trace: None and e",
        ),
    ],
)
def test_different_loads_are_not_compared(compare: Compare, changes_: dict[str, Any], text: str) -> None:
    code, printed = compare([steady_run(1)], [steady_run(1, **changes_)])
    assert (code, printed.splitlines()) == (
        3,
        [f"different {text}", "Not compared. --force compares all the same."],
    )


def test_different_scenarios_are_not_compared(compare: Compare) -> None:
    code, printed = compare([steady_run(1)], [steady_run(1, lambda sent: record(sent=sent, scenario="long"))])
    assert (code, printed.splitlines()[0]) == (3, "different scenarios: ['chat'] and ['long']")


def test_other_seeds_servers_and_models_are_compared(compare: Compare) -> None:
    arrivals = {"kind": "poisson", "rate": 10.0, "seed": 8}
    code, _ = compare(
        [steady_run(1)], [steady_run(2, arrivals=arrivals, model="other", host="http://other", nonce="x")]
    )
    assert code == 0


def test_a_run_that_is_invalid_is_not_compared(compare: Compare) -> None:
    code, printed = compare([steady_run(1)], [steady_run(1, lambda sent: record(sent=sent, lag=0.5))])
    assert (code, printed.splitlines()) == (
        3,
        [
            "the run of 2023-11-14T22:13:20.000+00:00 is INVALID: 1 % of the requests were sent 500 ms late or more "
            "(limit 10): use more --processes",
            "Not compared. --force compares all the same.",
        ],
    )


def test_force_compares_whatever_there_is(compare: Compare) -> None:
    code, printed = compare([steady_run(1)], [steady_run(1, users=5)], "--force")
    assert code == 0
    assert printed.startswith("different users: None and 5\n")
    assert printed.rstrip().endswith("B is no worse.")


@pytest.mark.parametrize("tolerance", ["1", "-0.1", "nan"])
def test_a_wrong_tolerance_is_one_sentence(tolerance: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "a", "b", "--tolerance", tolerance]) == 2
    assert capsys.readouterr().err == (
        f"loadtest compare: --tolerance is {float(tolerance):g}: it must be from 0 to less than 1, such as 0.02\n"
    )


def test_a_directory_without_a_run_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"loadtest compare: {tmp_path} holds no finished run: give a directory that --report wrote\n"
    )
