"""Prevents: a summary whose figures do not follow from its records, and a report that cannot be read back."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from loadtest import _files
from loadtest._errors import LoadTestError
from loadtest._files import HEALTH, REQUESTS, RUN, SUMMARY, finish, load_summary, write
from loadtest._print import amount, show
from loadtest._request import ErrorKind, Record
from loadtest._run_data import RunData, shown_command
from loadtest._schema import Distribution, Requests, Summary, Tokens
from loadtest._summary import build
from tests.unit.loadtest_runs import failure, health_of, record, run_of, steady_run


@pytest.fixture(autouse=True)
def _without_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page has tests of its own, and takes seconds to draw."""
    monkeypatch.setattr("loadtest._files.write_report", lambda *_: False)


def ten_seconds(**changes: Any) -> RunData:
    """Ten seconds, of which the first and the last do not count: what happens in them is not in the figures."""
    records = [
        record(sent=0.5, ttft=0.9, request_id="early"),
        record(sent=2.0, lag=0.010, cached_tokens=40),
        record(sent=3.0, lag=0.030, ttft=0.2, scenario="long", cached_tokens=None),
        record(sent=4.0, lag=0.020, ttft=0.3, tokens=1, token_source="chunks"),
        failure(ErrorKind.STATUS, sent=5.0, detail="HTTP 503: busy"),
        failure(ErrorKind.STATUS, sent=5.1, detail="HTTP 503: busy"),
        failure(ErrorKind.CANCELLED, sent=6.0, first=6.1, gaps=[(0.1, 1)], output_tokens=2, first_chunk_tokens=1),
        record(sent=9.5, request_id="late"),
    ]
    values = {"duration_s": 10.0, "warmup_s": 1.0, "cooldown_s": 1.0, "requested_rate": 0.75}
    return run_of(records, **{**values, **changes})


def test_requests_are_counted_by_how_they_ended() -> None:
    assert build(ten_seconds(), []).total.requests == Requests(
        sent=6,
        completed=3,
        failed=2,
        cancelled=1,
        excluded=2,
        error_rate=2 / 5,
        errors={"status": 2},
        details={"status: HTTP 503: busy": 2},
    )


def test_only_the_ten_most_frequent_errors_are_told_in_words() -> None:
    failures = [failure(ErrorKind.CUT, sent=20.0, detail=f"number {n}") for n in range(12) for _ in range(n + 1)]
    requests = build(run_of(failures), []).total.requests
    assert list(requests.details.items()) == [(f"cut: number {n}", n + 1) for n in range(11, 1, -1)]
    assert requests.errors == {"cut": 78}


def test_tokens_are_those_of_the_window() -> None:
    assert build(ten_seconds(), []).total.tokens == Tokens(
        prompt=300,
        output=11 + 11 + 1 + 2,
        cached=40,
        prefix_hit_rate=40 / 200,
        sources={"usage": 2, "chunks": 2},
    )


def test_a_latency_is_in_milliseconds() -> None:
    metrics = build(ten_seconds(), []).total.metrics
    assert metrics.ttft.count == 4
    assert distribution_of(metrics.ttft) == pytest.approx([175, 100, 300, 300, 300, 300])
    assert metrics.schedule_ttft.max == pytest.approx(320)
    assert [one.count for one in (metrics.itl, metrics.tpot, metrics.e2e, metrics.lag)] == [21, 2, 3, 6]
    means = [metrics.itl.mean, metrics.tpot.mean, metrics.e2e.mean, metrics.lag.mean]
    assert means == pytest.approx([(20 * 20 + 100) / 21, 20, 1000 / 3, 10])


def distribution_of(found: Distribution) -> list[float | None]:
    return [found.mean, found.p50, found.p90, found.p95, found.p99, found.max]


def test_nothing_measured_is_null_and_not_zero() -> None:
    summary = build(run_of([failure(ErrorKind.STATUS, sent=20.0)]), [])
    assert summary.total.metrics.ttft.count == 0
    assert distribution_of(summary.total.metrics.ttft) == [None] * 6
    assert summary.total.tokens.prefix_hit_rate is None
    assert summary.total.throughput.tokens_per_s_per_user is None
    assert summary.total.goodput is None


def test_throughput_counts_what_happened_in_the_window() -> None:
    throughput = build(ten_seconds(), []).total.throughput
    # The early request gets its tokens at 1.4 to 1.6 s, the late one gets none before 9.
    assert throughput.requests_per_s == pytest.approx(4 / 8)
    assert throughput.prompt_tokens_per_s == pytest.approx(400 / 8)
    assert throughput.output_tokens_per_s == pytest.approx((11 + 11 + 11 + 1 + 2) / 8)
    assert throughput.tokens_per_s_per_user == pytest.approx(34 / (1.1 + 0.3 + 0.4 + 0.3))


def test_goodput_counts_the_requests_that_met_every_objective() -> None:
    goodput = build(ten_seconds(), ["ttft_p95<=250ms", "itl_p99<=20.1ms"]).total.goodput
    assert goodput is not None
    # Of 25 tokens, only the one after 300 ms is late.
    figures = [goodput.requests_per_s, goodput.share, goodput.tokens_on_time]
    assert figures == pytest.approx([2 / 8, 2 / 5, 24 / 25])


def test_the_share_of_tokens_on_time_needs_a_bound_on_both_ttft_and_pace() -> None:
    assert [
        build(ten_seconds(), objectives).total.goodput.tokens_on_time  # type: ignore[union-attr]
        for objectives in (["ttft_p95<1s"], ["itl_p95<1s"], ["ttft_p95<1s", "tpot_mean<1s"])
    ] == [None, None, 1]


def test_the_load_is_what_was_asked_for_and_what_was_sent() -> None:
    run = ten_seconds()
    run.health = health_of(run)
    load = build(run, []).load
    # In flight from 1 s to 9 s: 0.6 s of the early request, all of the others.
    in_flight = (0.6 - 0.5 + 0.5 + 0.3 + 0.4 + 0.3 + 0.01 + 0.01 + 0.01) / 8
    little = (0.3 + 0.4 + 0.3 + 0.03) / 8
    assert (load.requested_rate, load.achieved_rate) == (0.75, 6 / 8)
    assert [load.in_flight, load.little, load.little_residual] == pytest.approx(
        [in_flight, little, in_flight / little - 1]
    )


def test_what_the_processes_counted_is_added_up() -> None:
    run = ten_seconds(processes=2)
    first, second = health_of(run), health_of(run)
    run.health = [dataclasses.replace(one, in_flight=2) for one in first]
    run.health += [dataclasses.replace(one, worker=1, in_flight=3) for one in second]
    assert build(run, []).load.in_flight_sampled == 5


def test_the_client_is_judged_by_its_busiest_process_in_the_window() -> None:
    run = ten_seconds()
    run.health = health_of(run, cpu=0.1, lag=0.001)
    run.health[0].cpu_share = 1.0
    run.health[4].cpu_share, run.health[4].loop_lag_s = 0.5, 0.02
    client = build(run, []).client
    assert (client.samples, client.cpu_p95, client.cpu_max) == (8, 0.5, 0.5)
    assert (client.loop_lag_p95_ms, client.loop_lag_max_ms) == (20, 20)


def test_each_scenario_has_its_own_figures() -> None:
    summary = build(ten_seconds(), ["ttft_p95<150ms"])
    assert {name: figures.requests.sent for name, figures in summary.scenarios.items()} == {"chat": 5, "long": 1}
    assert summary.scenarios["long"].metrics.ttft.max == pytest.approx(200)
    assert summary.scenarios["long"].goodput is not None
    assert summary.scenarios["long"].goodput.share == 0


def test_the_interval_of_an_objective_holds_its_value_and_a_maximum_has_none() -> None:
    objectives = ["ttft_p95<500ms", "ttft_mean<500ms", "itl_p50<500ms", "ttft_max<5s", "error_rate<1%"]
    results = build(steady_run(), objectives).objectives
    assert [result.interval is None for result in results] == [False, False, False, True, True]
    for result in results[:3]:
        assert result.interval is not None
        assert result.value is not None
        assert result.interval[0] <= result.value <= result.interval[1]
    # The mean of 474 gamma values of standard deviation 50 ms: ± 1.96 × 50 / √474.
    low, high = results[1].interval or (0, 0)
    assert high - low == pytest.approx(2 * 1.96 * 50 / 474**0.5, rel=0.15)


def test_the_summary_says_what_ran() -> None:
    info = build(ten_seconds(), []).run
    assert (info.started, info.command, info.seed) == ("2023-11-14T22:13:20.000+00:00", "locust -f loadtest/", 7)
    assert (info.arrivals, info.users) == ({"kind": "poisson", "rate": 10.0, "seed": 7}, None)


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["locust", "-f", "loadtest/"], "locust -f loadtest/"),
        (["locust", "--slo", "ttft_p95<1s"], "locust --slo 'ttft_p95<1s'"),
        (["locust", "--api-key", "secret", "-t", "5s"], "locust --api-key '***' -t 5s"),
        (["locust", "--api-key=secret", "-t", "5s"], "locust '--api-key=***' -t 5s"),
        (["locust", "--api-key", "--api-key", "x"], "locust --api-key '***' x"),
        (["locust", "--api", "secret", "-t", "5s"], "locust --api '***' -t 5s"),
        (["locust", "--api-k=secret", "-t", "5s"], "locust '--api-k=***' -t 5s"),
        (["locust", "--", "Chat"], "locust -- Chat"),
        (["locust", "--server-metrics", "http://u:p@h:1/m?token=x"], "locust --server-metrics http://h:1/m"),
        (["locust", "--server=http://h/m?token=x", "Chat"], "locust --server=http://h/m Chat"),
        (["locust", "--server-metrics", "http://[secret"], "locust --server-metrics '***'"),
    ],
)
def test_the_command_is_shown_without_its_secrets(argv: list[str], shown: str) -> None:
    assert shown_command(argv) == shown


def everything() -> RunData:
    odd = 'a "detail", with\nlines and 風\ud800'
    records = [
        record(sent=7.123456, lag=0.0015, request_id="r,1", cached_tokens=None, index=3, worker=2),
        record(sent=8.0, intended=None, gaps=[(0.0125, 4), (0.5, 1)], token_source="continuous_usage"),
        failure(ErrorKind.MALFORMED, sent=9.0, detail=odd, expected_prompt_tokens=None),
        failure(ErrorKind.CANCELLED, sent=10.0),
    ]
    return run_of(records, server=[{"t": 1.0, "source": "http://server:8000", "running": 3}], nonce="ñ", users=None)


def test_what_is_written_reads_back_as_the_same(tmp_path: Path) -> None:
    run = everything()
    write(run, build(run, ["ttft_p95<500ms"]), tmp_path / "new" / "report")
    again = _files.load(tmp_path / "new" / "report")
    for before, after in zip(run.records, again.records, strict=True):
        assert rounded(after) == rounded(before) | {"detail": after.detail}
    assert again.records[2].detail == 'a "detail", with\nlines and 風\\ud800'
    assert again.health == run.health
    assert dataclasses.replace(again, records=[], health=[]) == dataclasses.replace(run, records=[], health=[])
    assert {path.name for path in (tmp_path / "new" / "report").iterdir()} >= {SUMMARY, REQUESTS, HEALTH, RUN}


def rounded(one: Record) -> dict[str, Any]:
    values = {name: getattr(one, name) for name in one.__slots__}
    values["gaps"] = [(round(gap, 6), tokens) for gap, tokens in one.gaps]
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}


def test_the_figures_of_what_was_read_back_are_the_same(tmp_path: Path) -> None:
    run = steady_run()
    summary = build(run, ["ttft_p95<500ms"])
    write(run, summary, tmp_path)
    assert load_summary(tmp_path) == summary
    again = build(_files.load(tmp_path), ["ttft_p95<500ms"])
    assert again.verdict == summary.verdict
    assert numbers(again) == pytest.approx(numbers(summary), abs=2e-3)


def numbers(value: Any) -> list[float]:
    if isinstance(value, Summary):
        value = value.model_dump()
    if isinstance(value, dict):
        return [number for one in value.values() for number in numbers(one)]
    if isinstance(value, list | tuple):
        return [number for one in value for number in numbers(one)]
    return [float(value)] if isinstance(value, int | float) else []


def test_the_requests_table_is_one_row_for_each_request(tmp_path: Path) -> None:
    run = ten_seconds()
    write(run, build(run, ["ttft_p95<=250ms"]), tmp_path)
    header, early, first, *_ = (tmp_path / REQUESTS).read_text().splitlines()
    columns = dict(zip(header.split(","), first.split(","), strict=True))
    assert {name: columns[name] for name in ("measured", "good", "sent_at_ms", "first_at_ms", "ttft_ms", "lag_ms")} == {
        "measured": "1",
        "good": "1",
        "sent_at_ms": "2000.0",
        "first_at_ms": "2100.0",
        "ttft_ms": "100.0",
        "lag_ms": "10.0",
    }
    assert columns["gaps_ms"] == " ".join(["20.000"] * 10)
    assert dict(zip(header.split(","), early.split(","), strict=True))["measured"] == "0"


@pytest.mark.parametrize(
    ("name", "content", "mistake"),
    [
        (RUN, None, "holds no finished run: No such file or directory (run.json)"),
        (RUN, "{", "run.json is no JSON"),
        (RUN, "[]", "run.json holds no run: run the load test again"),
        (RUN, '{"schema_version": 0}', "run.json was written by another version: run the load test again"),
        (RUN, '{"schema_version": 1, "host": 5}', "cannot be read: "),
        (REQUESTS, None, "cannot be read: "),
        (REQUESTS, "a,b\n", "requests.csv has other columns than this version writes: run the load test again"),
        (HEALTH, "worker,t_ms,cpu_share,loop_lag_ms,in_flight,dispatched\n0,1,x,1,1,1\n", "line 2 of "),
        (HEALTH, "worker,t_ms,cpu_share,loop_lag_ms,in_flight,dispatched\n0,nan,1,1,1,1\n", "line 2 of "),
    ],
)
def test_a_broken_report_is_one_sentence(tmp_path: Path, name: str, content: str | None, mistake: str) -> None:
    run = ten_seconds()
    write(run, build(run, []), tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(LoadTestError) as raised:
        _files.load(tmp_path)
    assert mistake in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("old", "new"), [("usage", "guess"), ("2000.0", ""), ("20.000 ", "inf "), ("chat", "chat,")])
def test_a_broken_row_is_named_by_its_line(tmp_path: Path, old: str, new: str) -> None:
    run = run_of([record(sent=20.0), record(sent=2.0)])
    write(run, build(run, []), tmp_path)
    header, good, bad = (tmp_path / REQUESTS).read_text().splitlines()
    (tmp_path / REQUESTS).write_text("\n".join([header, good, bad.replace(old, new)]) + "\n")
    with pytest.raises(LoadTestError, match=rf"^line 3 of {tmp_path / REQUESTS} cannot be read: "):
        _files.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "mistake"),
    [(None, "holds no finished run: No such file"), ("{}", "is no summary of this version: "), ("x", "is no summary")],
)
def test_a_broken_summary_is_one_sentence(tmp_path: Path, content: str | None, mistake: str) -> None:
    if content is not None:
        (tmp_path / SUMMARY).write_text(content)
    with pytest.raises(LoadTestError, match=mistake):
        load_summary(tmp_path)


def test_a_finished_run_is_printed_written_and_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finish(steady_run(), ["ttft_p50<500ms"], tmp_path) == 0
    printed = capsys.readouterr().out
    assert f"Report: {tmp_path}" in printed.replace("\n", "")
    assert load_summary(tmp_path).exit_code == 0


def test_a_report_that_cannot_be_written_is_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert finish(steady_run(), [], tmp_path / "file" / "report") == 3
    assert "the report could not be written to" in capsys.readouterr().err


def printed(run: RunData, *objectives: str) -> list[str]:
    console = Console(file=io.StringIO(), width=120)
    show(build(run, objectives), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_the_result_is_printed_with_its_verdict() -> None:
    lines = printed(ten_seconds(requested_rate=2.0), "ttft_p95<=250ms", "ttft_p50<=0.21s", "error_rate<50%")
    assert [line.rstrip() for line in lines[-13:]] == [
        "* too few samples for this percentile",
        "Requests: 6 sent (0.75/s of 2.00 asked for), 3 completed, 2 failed (40.00%), 1 cancelled, 2 more outside the "
        "window",
        "  2 × status: HTTP 503: busy",
        "Throughput: 0.50 requests/s, 4.50 output tokens/s, 50.0 prompt tokens/s, 16.2 tokens/s for each user",
        "Goodput: 0.25 requests/s (40.00%)",
        "Tokens counted from: usage (2), chunks (2); prefix-hit rate: 20.00%",
        "missed ttft_p95<=250ms: 300 ms (95 % interval 100 to 300)",
        "met    ttft_p50<=0.21s: 100 ms (95 % interval 100 to 300)",
        "met    error_rate<50%: 40.00%",
        "SUSPECT",
        "  SUSPECT 1 % of the requests were sent 30 ms late or more (limit 10): use more --processes",
        "  SUSPECT ttft_p95 rests on 4 samples and needs 200: run longer",
        "  SUSPECT ttft_p50 rests on 4 samples and needs 20: run longer",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0.00"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (99.99, "100"),
        (9.999, "10.0"),
        (123.4, "123"),
        (12345.6, "12346"),
        (-12.34, "-12.3"),
    ],
)
def test_a_number_has_three_digits_or_more(value: float | None, text: str) -> None:
    assert amount(value) == text


def test_names_from_outside_are_no_markup() -> None:
    run = ten_seconds(model="[red]m", host="http://[::1]:8000")
    run.records.append(failure(ErrorKind.CUT, sent=3.0, detail="[bold]"))
    text = "\n".join(printed(run))
    assert "[red]m at http://[::1]:8000" in text
    assert "1 × cut: [bold]" in text


def test_a_long_run_is_summarised_from_part_of_its_gaps() -> None:
    # 200 streams of 1000 gaps: more than are resampled.
    run = run_of([record(sent=10.0 + n / 10, gaps=[(0.02, 1)] * 1000, tokens=1001) for n in range(200)])
    result = build(run, ["itl_mean<20.5ms"]).objectives[0]
    assert result.interval == pytest.approx((20, 20))
    assert np.isfinite(result.value or np.nan)
