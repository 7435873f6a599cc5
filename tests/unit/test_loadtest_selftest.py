"""Prevents: a self-test that believes a client which errs, and a run that stays VALID past the client's limit."""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from loadtest import _selftest, _selftest_arrivals
from loadtest.__main__ import main
from loadtest._mock_process import mock_server
from loadtest._request import ErrorKind, Record
from loadtest._run_data import HealthSample
from loadtest._schema import Reason, Verdict
from loadtest._selftest import selftest
from loadtest._selftest_arrivals import Dispatch
from loadtest._selftest_client import Level, Measured
from loadtest._selftest_outcome import Outcome, judge
from tests.unit.loadtest_runs import failure, record

LEVEL = Level(streams=2, tokens_per_s=50, seconds=5)
START = 1000.0


def streams(ttft_error: float = 0.0, gap_error: float = 0.0, **health: float) -> tuple[Measured, dict[str, Any]]:
    """Two streams of 50 tokens each second for six seconds, seen a little later than it was sent, and the truth."""
    records: list[Record] = []
    sent: dict[str, Any] = {}
    for second in range(6):
        for stream in range(2):
            at = START + second + stream / 4
            times = [at + 0.02 * (number + 1) for number in range(50)]
            # Each gap is wrong by as much, now too long, now too short.
            seen = [time + ttft_error + gap_error * (number % 2) for number, time in enumerate(times)]
            gaps = [(after - before, 1) for before, after in itertools.pairwise(seen)]
            name = f"r-{second}-{stream}"
            ended = {"first": seen[0], "last": seen[-1], "ended": seen[-1]}
            records.append(
                record(
                    sent=at, intended=None, tokens=50, gaps=gaps, request_id=name, expected_prompt_tokens=None, **ended
                )
            )
            sent[name] = {"times": times, "first_due": times[0], "itl_s": 0.02}
    rows = [one.to_row() for one in records]
    values = {"cpu_share": 0.3, "loop_lag_s": 0.002, **health}
    samples = [HealthSample(0, float(second), in_flight=2, dispatched=2, **values) for second in range(1, 7)]
    return Measured(START, rows, [list(dataclasses.astuple(one)) for one in samples], values["cpu_share"]), sent


def test_a_client_that_sees_everything_at_once_is_truthful() -> None:
    outcome = judge(LEVEL, *streams())
    assert (outcome.reasons, outcome.verdict) == ([], Verdict(level="VALID", reasons=[]))
    assert (outcome.requests, outcome.failed) == (10, 0)
    # 500 tokens in the five seconds after the warm-up, but for those of each stream's first request of it.
    assert outcome.achieved_tokens_per_s == pytest.approx(100, rel=0.02)
    assert (outcome.ttft_error_p99, outcome.itl_error_mean) == pytest.approx((0, 0), abs=1e-5)
    assert (outcome.loop_lag_max, outcome.cpu_share, outcome.mock_late_mean) == pytest.approx((0.002, 0.3, 0))


@pytest.mark.parametrize(
    ("errors", "reasons"),
    [
        ({"ttft_error": 0.0029}, []),
        ({"ttft_error": 0.0031}, ["TTFT error p99 3.1 ms > 3 ms"]),
        ({"gap_error": 0.0009}, []),
        ({"gap_error": 0.0011}, ["mean ITL error 1.10 ms > 1 ms"]),
        (
            {"cpu_share": 0.97},
            ["a run calls itself INVALID: a client process used 97% of a core (limit 80%)"],
        ),
    ],
)
def test_a_level_fails_past_a_bound(errors: dict[str, float], reasons: list[str]) -> None:
    assert judge(LEVEL, *streams(**errors)).reasons == reasons


def test_a_run_knows_that_it_is_not_to_be_trusted_without_knowing_the_truth() -> None:
    outcome = judge(LEVEL, *streams(loop_lag_s=0.2))
    assert [(reason.level, reason.check) for reason in outcome.verdict.reasons] == [("INVALID", "loop")]


def test_what_was_sent_in_the_warm_up_is_not_judged() -> None:
    measured, sent = streams()
    for name in ("r-0-0", "r-0-1"):
        sent[name]["times"] = [time - 5 for time in sent[name]["times"]]
    assert judge(LEVEL, measured, sent).ttft_error_p99 < 1e-4


def test_failed_requests_and_a_load_that_was_held_back_are_reasons() -> None:
    measured, sent = streams()
    measured.rows[-1] = failure(ErrorKind.CUT, sent=START + 5.5).to_row()
    assert judge(LEVEL, measured, sent).reasons[0] == "1 of 10 requests failed"
    assert judge(Level(4, 50, 5), *streams()).reasons == ["100 of 200 tokens/s achieved"]


def test_a_mock_that_is_late_itself_is_named_beside_the_reason() -> None:
    measured, sent = streams(ttft_error=0.004)
    for truth in sent.values():
        truth["first_due"] -= 0.02
    assert judge(LEVEL, measured, sent).reasons == [
        "TTFT error p99 4.0 ms > 3 ms",
        "the mock server itself was 20 ms late",
    ]


def test_nothing_measured_is_not_truthful() -> None:
    outcome = judge(LEVEL, Measured(START, [], [], 0.0), {})
    assert outcome.reasons[0] == "0 of 0 requests failed"
    assert outcome.verdict.level == "INVALID"


class Machine:
    """Measures truthfully up to a number of streams. A level that is tried again does as well as before."""

    def __init__(self, limit: int) -> None:
        self.tried: list[int] = []
        self._limit = limit

    def level(self, _: str, level: Level) -> Outcome:
        self.tried.append(level.streams)
        good = judge(LEVEL, *streams())
        verdict = Verdict(level="INVALID", reasons=[Reason(level="INVALID", check="cpu", text="too busy: rest")])
        bad = dataclasses.replace(good, reasons=["too busy"], verdict=verdict)
        return dataclasses.replace(good if level.streams <= self._limit else bad, streams=level.streams)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(300)
    monkeypatch.setattr(_selftest, "_one_level", machine.level)
    monkeypatch.setattr(_selftest, "_dispatch", lambda _: Dispatch(398.0, 398.0, 0.0002, 0.0034))
    monkeypatch.setattr(_selftest, "mock_server", no_server)
    return machine


@contextmanager
def no_server() -> Iterator[str]:
    yield "http://127.0.0.1:9"


def test_the_limit_lies_between_the_last_level_that_is_true_and_the_first_that_is_not(machine: Machine) -> None:
    result = selftest(Level(64, 50, 5), lambda _: None)
    # A level that fails is tried again.
    assert machine.tried == [64, 128, 256, 512, 512, 384, 384]
    assert (result.passed, result.limit_streams, result.limit_tokens_per_s) == (True, 256, 12_800)
    assert result.stopped_by == "too busy"
    assert [outcome.verdict.level for outcome in result.levels] == ["VALID"] * 3 + ["INVALID"] * 2


def test_a_machine_that_cannot_measure_the_first_level_fails(machine: Machine) -> None:
    result = selftest(Level(512, 50, 5), lambda _: None)
    assert (result.passed, result.limit_streams, machine.tried) == (False, 256, [512, 512, 256])


def test_the_verb_says_the_limit_and_the_reason(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Measured truthfully: 256 streams, 12800 tokens/s in one process. Stopped by: too busy." in text
    assert "Open loop: punctual: 398 of 398 requests/s, dispatch lag p99 3.40 ms (limit 10)." in text
    assert main(["selftest", "--streams", "2000", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["passed"], result["limit_streams"]) == (False, 0)
    assert result["levels"][0]["verdict"]["level"] == "INVALID"
    assert result["dispatch"]["lag_p99"] == 0.0034


@pytest.mark.parametrize(
    ("achieved", "lag", "punctual"), [(398.0, 0.01, True), (398.0, 0.0101, False), (397.8, 0.001, False)]
)
def test_an_open_loop_is_punctual_when_everything_was_sent_in_time(achieved: float, lag: float, punctual: bool) -> None:
    assert Dispatch(398.0, achieved, 0.0, lag).punctual is punctual


def test_an_open_loop_sends_its_whole_schedule() -> None:
    with mock_server() as url:
        found = _selftest_arrivals.measure(url, rate=10.0, seconds=1.0)
    assert found.achieved_rate == found.requested_rate == pytest.approx(10, abs=4 * 10**0.5)
    assert 0 <= found.lag_p50 <= found.lag_p99


@pytest.mark.parametrize("flags", [["--streams", "0"], ["--tokens-per-s", "1"], ["--seconds", "31"]])
def test_a_wrong_option_is_one_sentence(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", *flags]) == 2
    assert capsys.readouterr().err == (
        "loadtest selftest: --streams must be 1 to 10000, --tokens-per-s 2 to 1000 and --seconds 1 to 30\n"
    )


def test_a_measuring_process_that_fails_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_selftest, "ARRIVALS", "loadtest._no_such_module")
    monkeypatch.setattr(_selftest, "mock_server", no_server)
    assert main(["selftest"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("loadtest selftest: the measuring process failed (")
    assert "_no_such_module" in error


def test_past_its_limit_a_real_client_is_not_truthful_and_its_run_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_selftest, "CLIENT", "tests.unit.loadtest_busy_client")
    with mock_server() as url:
        outcome = _selftest._one_level(url, Level(streams=4, tokens_per_s=50, seconds=2))
    assert outcome.requests > 0
    # Chunks that came while the loop was blocked are read together, so that gaps of 20 ms look like 0 and 150 ms.
    assert outcome.itl_error_mean > 0.005
    assert outcome.loop_lag_max > 0.1
    assert outcome.verdict.level == "INVALID"
    assert "loop" in [reason.check for reason in outcome.verdict.reasons]
    assert any(reason.startswith("a run calls itself INVALID: ") for reason in outcome.reasons)
