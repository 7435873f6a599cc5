"""Prevents: a figure that is quoted though the client was the limit, and a good run that is called a bad one."""

from collections.abc import Callable
from typing import Any

import pytest

from loadtest._request import ErrorKind, Record
from loadtest._run_data import RunData
from loadtest._schema import Verdict
from loadtest._summary import build
from tests.unit.loadtest_runs import failure, health_of, record, run_of, steady_run

EVERY = {"kind": "constant", "rate": 10.0}


def every_100_ms(make: Callable[[int, float], Record] = lambda _, sent: record(sent=sent), **changes: Any) -> RunData:
    """Ten requests a second for a minute, the n-th made from (n, send time); 500 of them in the window."""
    return run_of([make(n, 0.05 + n / 10) for n in range(600)], **{"arrivals": EVERY, **changes})


def verdict(run: RunData, *objectives: str) -> Verdict:
    return build(run, objectives).verdict


def reasons(run: RunData, *objectives: str) -> list[tuple[str, str, str]]:
    return [(reason.level, reason.check, reason.text) for reason in verdict(run, *objectives).reasons]


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_client_of_a_steady_server_gives_a_valid_run(seed: int) -> None:
    assert verdict(steady_run(seed), "ttft_p95<500ms", "error_rate<1%") == Verdict(level="VALID", reasons=[])


def test_a_closed_loop_is_valid_though_it_has_neither_a_rate_nor_a_lag() -> None:
    run = every_100_ms(
        lambda _, sent: record(sent=sent, intended=None), arrivals={"kind": "closed"}, requested_rate=None, users=3
    )
    assert verdict(run).level == "VALID"


def test_a_server_that_fails_every_request_gives_a_valid_run() -> None:
    assert verdict(every_100_ms(lambda _, sent: failure(ErrorKind.STATUS, sent))).level == "VALID"


def test_a_run_without_a_measured_request_is_invalid() -> None:
    text = "no request fell into the measured window: run longer, or shorten --warmup and --cooldown"
    assert reasons(run_of([record(sent=1.0)])) == [("INVALID", "requests", text)]


def test_a_server_that_never_answered_makes_the_run_invalid() -> None:
    found = reasons(every_100_ms(lambda _, sent: failure(ErrorKind.CONNECT, sent, detail="refused")))
    assert found == [("INVALID", "server", "the server at http://server:8000 never answered: refused")]


def test_a_server_that_goes_away_makes_the_run_invalid() -> None:
    run = every_100_ms(lambda _, sent: record(sent=sent) if sent < 30 else failure(ErrorKind.CONNECT, sent))
    # The last good request was sent at 29.95 and took 0.3 s; those sent from 30.35 on have no answer before them.
    text = "the server stopped answering after 30.2 s: all 297 requests sent later failed"
    assert reasons(run) == [("INVALID", "server", text)]


def test_two_requests_without_an_answer_at_the_end_are_no_dead_server() -> None:
    run = every_100_ms(lambda n, sent: failure(ErrorKind.CUT, sent) if n >= 598 else record(sent=sent))
    assert verdict(run).level == "VALID"


@pytest.mark.parametrize(
    ("requested", "level", "share"),
    [(10.4, None, ""), (9.6, None, ""), (10.6, "SUSPECT", "6%"), (9.4, "SUSPECT", "6%"), (12.6, "INVALID", "21%")],
)
def test_a_rate_that_was_not_achieved_is_the_only_reason(requested: float, level: str | None, share: str) -> None:
    text = (
        f"10.00 requests/s were sent where {requested:.2f} were asked for ({share} off): "
        "use more --processes or a lower --rate"
    )
    expected = [(level, "rate", text)] if level else []
    assert reasons(every_100_ms(requested_rate=requested)) == expected


@pytest.mark.parametrize(
    ("arrivals", "is_noise"),
    [
        # 536 are expected within 50 s: a standard deviation is 4.3 % of Poisson arrivals, and the miss is 6.7 %.
        ({"kind": "poisson"}, True),
        ({"kind": "gamma", "burstiness": 0.25}, True),
        ({"kind": "gamma", "burstiness": 25.0}, False),
        ({"kind": "trace"}, False),
        ({"kind": "ramp"}, False),
        ({"kind": "constant"}, False),
    ],
)
def test_what_random_arrivals_do_by_chance_is_not_held_against_them(arrivals: dict[str, Any], is_noise: bool) -> None:
    found = reasons(every_100_ms(requested_rate=10.72, arrivals=arrivals))
    assert [check for _, check, _ in found] == ([] if is_noise else ["rate"])


@pytest.mark.parametrize(
    ("lag", "late", "expected"),
    [
        (0.010, 10, []),
        (0.012, 4, []),
        (0.012, 10, [("SUSPECT", "12")]),
        (0.101, 10, [("INVALID", "101")]),
    ],
)
def test_late_sending_is_the_only_reason(lag: float, late: int, expected: list[tuple[str, str]]) -> None:
    run = every_100_ms(lambda n, sent: record(sent=sent, lag=lag if n % 500 < late else 0.001))
    text = "1 % of the requests were sent {} ms late or more (limit 10): use more --processes"
    assert reasons(run) == [(level, "lag", text.format(shown)) for level, shown in expected]


def with_health(**health: float) -> RunData:
    run = every_100_ms()
    run.health = health_of(run, **health)
    return run


@pytest.mark.parametrize(("cpu", "expected"), [(0.8, None), (0.81, "SUSPECT"), (0.95, "SUSPECT"), (0.96, "INVALID")])
def test_a_busy_client_is_the_only_reason(cpu: float, expected: str | None) -> None:
    text = f"a client process used {cpu:.0%} of a core (limit 80%): use more --processes"
    assert reasons(with_health(cpu=cpu)) == ([(expected, "cpu", text)] if expected else [])


@pytest.mark.parametrize(("lag", "expected"), [(0.025, None), (0.026, "SUSPECT"), (0.101, "INVALID")])
def test_a_late_event_loop_is_the_only_reason(lag: float, expected: str | None) -> None:
    text = (
        f"the client's event loop ran {lag * 1000:.0f} ms late (limit 25), which latencies contain: use more "
        "--processes, or a machine that the server does not share"
    )
    assert reasons(with_health(lag=lag)) == ([(expected, "loop", text)] if expected else [])


@pytest.mark.parametrize(("lag", "expected"), [(0.025, None), (0.026, "INVALID")])
def test_a_late_loop_that_read_chunks_together_lost_their_times(lag: float, expected: str | None) -> None:
    # One gap of ten is lost. A server that sends two chunks at once to a punctual client does no harm.
    gaps = [(0.02, 1)] * 8 + [(0.04, 1), (0.0, 1)]
    run = every_100_ms(lambda _, sent: record(sent=sent, gaps=gaps))
    run.health = health_of(run, lag=lag)
    text = (
        "the client's event loop ran 26 ms late (limit 25), which latencies contain, 10% of the chunks were read "
        "together with the one before: use more --processes, or a machine that the server does not share"
    )
    assert reasons(run) == ([(expected, "loop", text)] if expected else [])


def test_one_busy_second_in_fifty_is_no_reason() -> None:
    run = with_health()
    run.health[20].cpu_share = run.health[21].cpu_share = 1.0
    run.health[30].loop_lag_s = run.health[31].loop_lag_s = 0.5
    assert verdict(run).level == "VALID"


def test_what_the_client_did_outside_the_window_is_no_reason() -> None:
    run = with_health()
    for sample in (*run.health[:4], *run.health[56:]):
        sample.cpu_share, sample.loop_lag_s = 1.0, 1.0
    assert verdict(run).level == "VALID"


def test_a_process_that_falls_silent_in_the_middle_of_the_window_is_named() -> None:
    run = with_health()
    run.health = [sample for sample in run.health if sample.t <= 30]
    text = "client process 0 fell silent after 30 s: its share of the load is missing from then on"
    assert ("SUSPECT", "health", text) in reasons(run)


def test_a_process_that_never_said_how_it_fared_is_the_only_reason() -> None:
    text = (
        "only 1 of 2 client processes said how they fared: whether the others kept up is unknown, "
        "and requests of theirs may be missing"
    )
    assert reasons(every_100_ms(processes=2)) == [("SUSPECT", "health", text)]
    assert [check for _, check, _ in reasons(every_100_ms(health=[]))] == ["health"]


def test_several_tokens_in_a_chunk_are_the_only_reason() -> None:
    # 11 tokens in 3 chunks, the server counting once at the end.
    run = every_100_ms(lambda _, sent: record(sent=sent, gaps=[(0.08, 1), (0.12, 1)]))
    text = (
        "the chunks seen account for 1500 of the 5500 output tokens that the server reports: "
        "it sends several tokens in a chunk, so ITL is the time between chunks; use TPOT"
    )
    assert reasons(run) == [("SUSPECT", "tokens", text)]


def test_several_tokens_in_a_chunk_that_the_server_counts_are_no_reason() -> None:
    gaps = [(0.08, 5), (0.12, 5)]
    run = every_100_ms(lambda _, sent: record(sent=sent, gaps=gaps, token_source="continuous_usage"))
    assert verdict(run).level == "VALID"


@pytest.mark.parametrize(("wrong", "fires"), [(10, False), (11, True)])
def test_two_percent_of_the_tokens_may_be_unaccounted_for(wrong: int, fires: bool) -> None:
    # One token more than chunks in `wrong` of each 50 requests, 10 chunks each: 2 % at 10.
    run = every_100_ms(lambda n, sent: record(sent=sent, tokens=10, output_tokens=10 + (n % 50 < wrong)))
    assert [check for _, check, _ in reasons(run)] == (["tokens"] if fires else [])


@pytest.mark.parametrize(("counted", "fires"), [(11, False), (12, True)])
def test_the_token_that_ends_an_answer_needs_no_chunk(counted: int, fires: bool) -> None:
    # 10 chunks of an answer that could have been longer.
    run = every_100_ms(lambda _, sent: record(sent=sent, tokens=10, output_tokens=counted, max_tokens=20))
    assert [check for _, check, _ in reasons(run)] == (["tokens"] if fires else [])


def test_tokens_of_a_server_that_does_not_count_them_are_compared_with_nothing() -> None:
    run = every_100_ms(lambda _, sent: record(sent=sent, gaps=[(0.2, 1)], token_source="chunks", output_tokens=2))
    assert verdict(run).level == "VALID"


def test_prompts_of_another_length_are_the_only_reason() -> None:
    run = every_100_ms(lambda n, sent: record(sent=sent, expected_prompt_tokens=100 if n % 50 else 94))
    text = (
        "10 of 500 prompts have another length than the workload says (the server counted 100 tokens where 94 were "
        "meant): check the workload's tokeniser"
    )
    assert reasons(run) == [("SUSPECT", "prompts", text)]


@pytest.mark.parametrize("expected", [None, 95.3, 105])
def test_prompts_within_five_percent_and_of_unknown_length_are_no_reason(expected: float | None) -> None:
    run = every_100_ms(lambda _, sent: record(sent=sent, expected_prompt_tokens=expected))
    assert verdict(run).level == "VALID"


@pytest.mark.parametrize(("cached", "fires"), [(10, False), (11, True)])
def test_prefix_hits_that_drift_are_the_only_reason(cached: int, fires: bool) -> None:
    run = every_100_ms(lambda _, sent: record(sent=sent, cached_tokens=20 if sent < 30 else 20 + cached))
    text = (
        f"the prefix-hit rate went from 20% in the first half of the window to {20 + cached}% in the second: "
        "lengthen --warmup, or use a new --nonce"
    )
    assert reasons(run) == ([("SUSPECT", "prefix_hits", text)] if fires else [])


def test_a_server_that_does_not_report_prefix_hits_is_no_reason() -> None:
    assert verdict(every_100_ms(lambda _, sent: record(sent=sent, cached_tokens=None))).level == "VALID"


def test_a_queue_that_grows_is_the_only_reason() -> None:
    # Each request waits half a second longer for each second of the run: the server does two thirds of the load.
    run = every_100_ms(lambda _, sent: record(sent=sent, ttft=0.1 + sent / 2))
    ((level, check, text),) = reasons(run)
    assert (level, check) == ("SUSPECT", "steady_state")
    # Mean latency 0.3 + 30 / 2 s at 10/s; in flight at time t are those sent in (t - 0.3) / 1.5 s, from t = 5 to 55.
    assert text == (
        "no steady state: 102.0 requests were in flight where the rate and the latency make 153.0 (Little's law), "
        "so the figures depend on how long the run is"
    )


def test_records_that_were_lost_are_the_only_reason() -> None:
    run = every_100_ms(lambda _, sent: record(sent=sent, ttft=1.0))
    for sample in run.health:
        sample.in_flight += 3
    text = (
        "the processes counted 15.0 requests in flight, the records 12.0: records were lost, or requests were cut off "
        "at the end (raise --stop-timeout)"
    )
    assert reasons(run) == [("SUSPECT", "records", text)]


def test_too_few_samples_for_a_percentile_are_the_only_reason() -> None:
    text = "ttft_p99 rests on 500 samples and needs 1000: run longer"
    assert reasons(every_100_ms(), "ttft_p99<1s", "ttft_p95<1s", "ttft_max<1s", "itl_p99<1s") == [
        ("SUSPECT", "samples", text)
    ]


def test_the_worst_reason_comes_first_and_decides() -> None:
    found = verdict(every_100_ms(lambda _, sent: record(sent=sent, lag=0.02), requested_rate=20.0), "ttft_p99<1s")
    assert found.level == "INVALID"
    assert [reason.check for reason in found.reasons] == ["rate", "lag", "samples"]
