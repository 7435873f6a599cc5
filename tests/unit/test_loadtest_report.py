"""Prevents: a page that runs what a server sent, needs a network, grows with the run, or shows another number."""

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest import _plotly
from loadtest.__main__ import main
from loadtest._files import load, write
from loadtest._report import render, write_report
from loadtest._request import ErrorKind
from loadtest._run_data import RunData
from loadtest._summary import build
from tests.unit.loadtest_overload import OBJECTIVES, overloaded_run
from tests.unit.loadtest_runs import failure, record, run_of, steady_run

HOSTILE = "</script><img src=x onerror=alert(1)>\"'{{ 7 * 7 }}"


@pytest.fixture(autouse=True)
def _without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two megabytes that each test would pack anew."""
    monkeypatch.setattr(_plotly, "packed", lambda: "packed")


def page_of(run: RunData, objectives: list[str] | None = None) -> str:
    return render(run, build(run, objectives or []))


def data_of(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    values: dict[str, Any] = json.loads(text)
    return values


def trace(page: str, chart: str, name: str) -> list[float | None]:
    (found,) = [one for one in data_of(page)["charts"][chart]["traces"] if one["name"] == name]
    values: list[float | None] = found["y"]
    return values


def words(page: str) -> str:
    """The page's text without its tags and scripts."""
    bare = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", bare)).split())


def ten_seconds(**changes: Any) -> RunData:
    """Ten seconds in bins of half a second: TTFT 100 ms and, from 5 s on, 300 ms."""
    records = [record(sent=0.25 + number, ttft=0.1 if number < 5 else 0.3, gap=0.02) for number in range(10)]
    return run_of(
        records, **({"duration_s": 10.0, "warmup_s": 0.0, "cooldown_s": 0.0, "requested_rate": 1.0} | changes)
    )


def test_bands_hold_the_percentiles_of_the_requests_sent_in_each_bin() -> None:
    page = page_of(ten_seconds())
    data = data_of(page)
    assert (data["bin_s"], data["range"], data["window"]) == (0.5, [0, 10.0], [0.0, 10.0])
    assert data["charts"]["ttft"]["x"][:3] == [0.25, 0.75, 1.25]
    assert trace(page, "ttft", "median")[:4] == [100.0, None, 100.0, None]
    assert trace(page, "ttft", "median")[10:13] == [300.0, None, 300.0]


def test_inter_token_latencies_lie_where_the_tokens_arrived() -> None:
    run = run_of([record(sent=0.0, ttft=1.0, gaps=[(1.0, 2), (0.5, 1)], tokens=4)], duration_s=4.0, warmup_s=0.0)
    page = page_of(run)
    # 1.0 s before a chunk of two tokens that came at 2.0 s, then half a second before one of a single token.
    assert trace(page, "itl", "median") == [None] * 4 + [500.0, 500.0] + [None] * 2
    assert trace(page, "tokens", "arrived at the client") == [0.0, 0.0, 2.0, 0.0, 4.0, 2.0, 0.0, 0.0]


def test_arrivals_are_counted_per_second_as_due_sent_and_completed() -> None:
    run = run_of(
        [record(sent=0.6, lag=0.2), record(sent=0.7, lag=0.0), failure(ErrorKind.CUT, sent=1.6)],
        duration_s=2.0,
        warmup_s=0.0,
        cooldown_s=0.0,
    )
    page = page_of(run)
    assert trace(page, "arrivals", "due") == [2.0, 2.0, 0.0, 2.0]
    assert trace(page, "arrivals", "sent") == [0.0, 4.0, 0.0, 2.0]
    assert trace(page, "arrivals", "completed") == [0.0, 2.0, 2.0, 0.0]
    assert trace(page, "errors", "cut") == [0.0, 0.0, 0.0, 1.0]


def test_bins_in_which_an_objective_did_not_hold_are_shaded_in_the_colour_of_the_cause() -> None:
    waiting = [{"source": "s", "replica": None, "t": float(t), "waiting": 1.0, "running": 1.0} for t in range(11)]
    data = data_of(page_of(ten_seconds(server=waiting), ["ttft_p95<200ms"]))
    spans = data["charts"]["ttft"]["spans"]
    assert spans == [{"start": float(t), "end": t + 0.5, "colour": "queue"} for t in range(5, 10)]
    assert spans == data["charts"]["running"]["spans"]
    assert data["charts"]["ttft"]["bounds"] == [{"at": 200.0, "label": "ttft_p95<200ms", "axis": "y"}]


def test_a_single_late_request_that_the_percentile_allows_shades_nothing() -> None:
    records = [record(sent=0.01 * number, ttft=0.3 if number == 3 else 0.1) for number in range(40)]
    data = data_of(page_of(run_of(records, duration_s=10.0, warmup_s=0.0), ["ttft_p95<200ms"]))
    assert data["charts"]["ttft"]["spans"] == []
    assert sum(data["charts"]["breaches"]["traces"][0]["y"]) == 1.0


def test_the_figures_of_the_page_are_those_of_the_summary() -> None:
    run = overloaded_run()
    summary = build(run, OBJECTIVES)
    text = words(render(run, summary))
    ttft = summary.total.metrics.ttft
    assert (
        f"TTFT Time to first token: first − sent. Every request that got a token. A new connection is in it. "
        f"{ttft.mean:.0f} {ttft.p50:.0f}" in text
    )
    assert "2 of 3 objectives missed" in text
    assert "status: 429 too many requests" in text
    assert f"{summary.total.requests.sent} sent: {summary.total.requests.completed} completed" in text
    assert text.count("largest stall A request's largest gap") == 3
    assert "Output tokens" in text
    assert "locust -f loadtest/ --host http://server:8000 --arrivals poisson" in text


def test_tokens_of_the_client_stand_beside_those_of_the_servers_counters() -> None:
    counters = [
        {"source": "s", "replica": None, "t": t, "generation_tokens": 1000.0 + tokens, "prompt_tokens": 5.0}
        for t, tokens in ((0.0, 0), (5.0, 60), (11.0, 100))
    ]
    assert "Output tokens 110 100 +10.00%" in words(page_of(ten_seconds(server=counters)))


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ([], "The server's own metrics were not seen."),
        (
            [{"source": "http://s/metrics", "replica": None, "t": 0.0, "error": "HTTP 401"}],
            "The server's own metrics were not seen: http://s/metrics: HTTP 401.",
        ),
        (
            [{"source": "s", "replica": each, "t": float(t), "running": 1.0} for t, each in enumerate("abab")],
            "One address answered for several replicas in turn, so totals are those of one replica at a time.",
        ),
    ],
    ids=["none", "refused", "in turn"],
)
def test_the_page_says_where_the_servers_figures_come_from_or_why_there_are_none(
    server: list[dict[str, Any]], said: str
) -> None:
    page = page_of(ten_seconds(server=server))
    assert said in words(page)
    assert ("running" in data_of(page)["charts"]) == any("running" in sample for sample in server)


def test_nothing_that_a_server_or_a_workload_names_becomes_markup() -> None:
    records = [
        record(sent=1.0, scenario=HOSTILE, request_id=HOSTILE),
        failure(ErrorKind.STATUS, sent=2.0, scenario="b", detail=HOSTILE),
    ]
    server = [{"source": HOSTILE, "replica": HOSTILE, "t": 1.0, "running": 1.0, "error": HOSTILE}]
    server += [
        {"source": HOSTILE, "replica": each, "t": 1.0, "running": 1.0, "kv_usage": 0.5} for each in (HOSTILE, "b")
    ]
    run = run_of(
        records,
        duration_s=10.0,
        warmup_s=0.0,
        model=HOSTILE,
        host=HOSTILE,
        command=HOSTILE,
        nonce=HOSTILE,
        versions={HOSTILE: HOSTILE},
        workload={"name": HOSTILE, "hash": HOSTILE},
        arrivals={"kind": HOSTILE},
        server=server,
    )
    page = page_of(run, ["ttft_p95<50ms"])
    assert "<img" not in page
    assert "49" not in words(page.replace(HOSTILE, ""))
    # The page's own scripts and its data, each closed once by itself.
    assert page.count("<script") == page.count("</script>") == 5
    assert data_of(page)["charts"]["kv"]["traces"][1]["name"] == HOSTILE
    assert words(page).count(HOSTILE.split(">")[-1]) > 5


def test_the_page_loads_nothing_and_forbids_itself_to() -> None:
    page = page_of(ten_seconds(), ["ttft_p95<200ms"])
    assert "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:" in page
    assert re.findall(r"""(?:src|href)=["']?(?!#)(?!data:)([^"'> ]+)""", page) == [
        "summary.json",
        "requests.csv",
        "health.csv",
        "run.json",
    ]
    assert re.findall(r"url\(|@import|fetch\(|XMLHttpRequest|<link(?! rel=\"icon\" href=\"data:,\")", page) == []


def test_no_text_of_an_answer_is_in_the_page() -> None:
    assert "a private answer" not in page_of(run_of([record(text="a private answer")]))


@pytest.mark.parametrize("seconds", [60.0, 3600.0, 90_000.0])
def test_the_page_stays_small_however_long_the_run(seconds: float) -> None:
    run = steady_run(rate=2000 / seconds, duration_s=seconds, health=[])
    run.server = [
        {"source": f"s{replica}", "replica": None, "t": float(t), "running": 1.0, "kv_usage": 0.123456789}
        for t in np.linspace(0, seconds, 2000)
        for replica in range(4)
    ]
    page = page_of(run, OBJECTIVES)
    assert len(page) < 200_000
    lengths = [len(one["y"]) for chart in data_of(page)["charts"].values() for one in chart["traces"]]
    assert max(lengths) <= 151


@pytest.mark.parametrize(
    "run",
    [
        run_of([]),
        run_of([], requested_rate=None, users=4, arrivals={"kind": "closed"}, health=[]),
        run_of([record(sent=6.0, tokens=1)]),
        run_of([failure(ErrorKind.CONNECT, sent=6.0)]),
        run_of([record(sent=6.0)], duration_s=0.0, warmup_s=0.0, cooldown_s=0.0),
    ],
    ids=["nothing", "closed loop, nothing", "one token", "one failure", "no length"],
)
def test_a_run_with_next_to_nothing_in_it_has_a_page(run: RunData) -> None:
    assert "INVALID" in words(page_of(run, OBJECTIVES))


def test_the_page_is_rebuilt_from_the_files(tmp_path: Path) -> None:
    server = [{"source": "s", "replica": None, "t": 1.0, "running": 1.0}]
    run = ten_seconds(server=server)
    write(run, build(run, ["ttft_p95<200ms"]), tmp_path)
    first = (tmp_path / "report.html").read_text(encoding="utf-8")
    (tmp_path / "report.html").unlink()
    assert main(["report", str(tmp_path)]) == 1
    assert data_of((tmp_path / "report.html").read_text(encoding="utf-8")) == data_of(first)
    assert load(tmp_path).server == server


def test_the_path_of_the_page_is_returned(tmp_path: Path) -> None:
    run = run_of([record(sent=6.0)])
    path = write_report(run, build(run, []), tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
