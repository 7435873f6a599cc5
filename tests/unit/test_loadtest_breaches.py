"""Prevents: a missed objective put down to the server where the client was late, or to the wrong part of the server."""

from typing import Any

import pytest

from loadtest._breaches import RULES, Cause, breaches
from loadtest._request import ErrorKind, Record
from loadtest._run_data import HealthSample
from loadtest._server_series import ServerSeries
from loadtest._slo import parse_all
from tests.unit.loadtest_runs import failure, record, run_of


def causes(
    records: list[Record],
    *objectives: str,
    lag: dict[float, float] | None = None,
    waiting: dict[float, float] | None = None,
) -> list[tuple[str, str, float]]:
    """Of each missed request: the cause, the objective, the value. ``lag`` and ``waiting``: by second, in seconds."""
    health = [HealthSample(0, t, 0.1, seconds, 0, 0) for t, seconds in (lag or {}).items()]
    samples = [{"source": "s", "replica": None, "t": t, "waiting": value} for t, value in (waiting or {}).items()]
    run = run_of(records, health=health)
    found = breaches(run, parse_all(objectives), ServerSeries(samples))
    return [(str(one.cause), one.objective.text, round(one.value, 3)) for one in found]


QUIET = {float(t): 0.0 for t in range(10)}
BUSY = {float(t): 2.0 for t in range(10)}
LATE = {"sent": 1.0, "ttft": 3.0}
TTFT = "ttft_p95<1s"


@pytest.mark.parametrize(
    ("waiting", "cause"),
    [
        (BUSY, "queue"),
        (QUIET, "prefill"),
        ({**QUIET, 2.0: 1.0, 3.0: 1.0}, "queue"),
        ({**QUIET, 2.0: 1.0}, "prefill"),
        ({}, "queue or prefill"),
        ({60.0: 5.0}, "queue or prefill"),
    ],
    ids=["waiting", "nobody waits", "two of three samples", "one of three", "no metrics", "metrics of another time"],
)
def test_a_late_first_token_is_the_queues_when_requests_waited_in_half_of_the_samples(
    waiting: dict[float, float], cause: str
) -> None:
    assert causes([record(**LATE)], TTFT, waiting=waiting) == [(cause, TTFT, 3000.0)]


@pytest.mark.parametrize(
    ("lag", "cause"), [({2.0: 2.1}, "client"), ({4.5: 2.1}, "client"), ({2.0: 1.9}, "prefill"), ({7.0: 9.9}, "prefill")]
)
def test_it_is_the_clients_when_its_loop_was_late_enough_in_the_seconds_of_the_request(
    lag: dict[float, float], cause: str
) -> None:
    # From 1.0 to 4.2 s: 2 s too late; a health sample at t speaks of the second before it.
    assert causes([record(**LATE)], TTFT, lag=lag, waiting=QUIET) == [(cause, TTFT, 3000.0)]


def test_the_loop_lag_of_another_process_excuses_nothing() -> None:
    assert causes([record(**LATE, worker=1)], TTFT, lag={2.0: 9.9}, waiting=QUIET) == [("prefill", TTFT, 3000.0)]


@pytest.mark.parametrize(("ttft", "cause"), [(0.8, "client"), (1.0, "queue")])
def test_the_dispatch_lag_counts_for_latencies_from_the_schedule(ttft: float, cause: str) -> None:
    bound = "schedule_ttft_p95<0.9s"
    late = record(sent=4.0, ttft=ttft, lag=0.5)
    assert causes([late], bound, waiting=BUSY) == [(cause, bound, 1000 * (ttft + 0.5))]


def test_a_missed_bound_on_the_lag_itself_is_always_the_clients() -> None:
    assert causes([record(lag=0.5)], "lag_p99<10ms", waiting=BUSY) == [("client", "lag_p99<10ms", 500.0)]


@pytest.mark.parametrize("bound", ["itl_p99<50ms", "tpot_p99<50ms", "largest_stall_p99<50ms"])
def test_late_tokens_are_the_decoders_whatever_waits(bound: str) -> None:
    assert [one[:2] for one in causes([record(gap=0.1)], bound, waiting=BUSY)] == [("decode", bound)]


@pytest.mark.parametrize(
    ("bound", "lag", "cause"),
    [
        # Ten gaps of 100 ms: a late loop adds a tenth of its lag to the mean, and all of it to one gap.
        ("itl_p99<90ms", 0.11, "client"),
        ("itl_p99<90ms", 0.09, "decode"),
        ("tpot_p99<90ms", 0.11, "client"),
        ("largest_stall_p99<90ms", 0.011, "client"),
        ("largest_stall_p99<90ms", 0.009, "decode"),
    ],
)
def test_what_a_late_loop_may_have_added_is_shared_among_the_tokens(bound: str, lag: float, cause: str) -> None:
    assert [one[0] for one in causes([record(gap=0.1)], bound, lag={2.0: lag})] == [cause]


@pytest.mark.parametrize(
    ("changes", "cause"), [({"ttft": 2.0}, "queue"), ({"gap": 0.2}, "decode"), ({"ttft": 1.0, "gap": 0.2}, "decode")]
)
def test_a_late_end_is_put_down_to_the_part_that_exceeds_its_median_by_more(
    changes: dict[str, Any], cause: str
) -> None:
    usual = [record(sent=float(number)) for number in range(5)]
    late = record(sent=6.0, **changes)
    assert [one[:2] for one in causes([*usual, late], "e2e_p95<1s", waiting=BUSY)] == [(cause, "e2e_p95<1s")]


def test_each_request_counts_once_for_the_objective_that_it_missed_by_the_largest_factor() -> None:
    late = record(ttft=0.3, gap=0.1)
    assert causes([late], "ttft_p95<200ms", "itl_p99<20ms", "error_rate<1%", waiting=QUIET) == [
        ("decode", "itl_p99<20ms", 100.0)
    ]


def test_failed_cancelled_and_timely_requests_are_no_breaches() -> None:
    records = [record(), failure(ErrorKind.TIMEOUT, seconds=9.0), failure(ErrorKind.CANCELLED, seconds=9.0)]
    assert causes(records, TTFT, "e2e_p95<1s") == []
    assert causes([record(**LATE)]) == []


def test_every_cause_has_its_rule_in_the_page() -> None:
    assert set(RULES) == set(Cause)
