"""Prevents: live figures that are wrong, that mix scenarios, or that grow with the run.

Locust itself patches the interpreter when imported, so tests/browser looks at its real page; here a stand-in is asked.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from loadtest._live import ALL, BIN_S, BUCKETS, KEPT_BINS, MOST_SCENARIOS, OTHERS, Live, bucket_of
from loadtest._live_figures import COLUMNS, charts, rows
from loadtest._live_web import attach
from loadtest._request import ErrorKind, Record
from loadtest._slo import parse_all
from tests.unit.loadtest_runs import failure, record


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def live_after(records: list[Record], seconds: float, *objectives: str) -> Live:
    """What is shown that many seconds after the start; the records' times count from the start."""
    clock = Clock()
    live = Live(parse_all(objectives), clock)
    clock.now += seconds
    for one in records:
        live.observe(one.shifted(live.origin))
    return live


def row(live: Live, name: str = "chat") -> dict[str, Any]:
    (found,) = [each for each in rows(live) if each["name"] == name]
    return found


def test_a_row_holds_the_figures_of_the_requests_that_ended_in_the_last_half_minute() -> None:
    # Each: TTFT 100 or 300 ms, 11 tokens 20 ms apart, so 300 or 500 ms in all. Two ended before the window.
    records = [record(sent=2.0, ttft=9.0), record(sent=2.5, ttft=9.0)]
    records += [record(sent=20.5 + number, ttft=0.1 if number % 2 else 0.3, lag=0.004) for number in range(20)]
    records += [failure(ErrorKind.CUT, sent=41.0, lag=0.004) for _ in range(5)]
    found = row(live_after(records, 54.0, "ttft_p95<200ms"))
    # The last one ended at 41.01 s, so the bins of 2 s that make half a minute reach from 12 to 42 s.
    assert found == {
        "name": "chat",
        "requests": 27,
        "rate": round(20 / 30, 3),
        "failed": 20.0,
        "goodput": round(10 / 30, 3),
        "ttft_p50": pytest.approx(100, rel=0.025),
        "ttft_p95": pytest.approx(300, rel=0.025),
        "itl_p50": pytest.approx(20, rel=0.025),
        "itl_p99": pytest.approx(20, rel=0.025),
        "e2e_p50": pytest.approx(300, rel=0.025),
        "tokens": round(20 * 11 / 30, 2),
        "tokens_per_user": 27.5,
        "lag_p99": pytest.approx(4, rel=0.025),
    }


def test_nothing_is_claimed_before_a_request_has_ended() -> None:
    assert rows(live_after([], 100.0)) == [{"name": ALL, "requests": 0, **dict.fromkeys(list(COLUMNS)[2:], "–")}]


def test_what_happened_in_the_last_seconds_waits_for_the_workers_reports() -> None:
    records = [record(sent=float(number)) for number in range(20)]
    live = live_after(records, 20.0)
    # Complete are the bins up to 16 s: workers report every 3 s.
    assert live.newest == 7
    assert [tally.ended["completed"] for tally in live.by_bin()[1]] == [2] * 8


def test_scenarios_are_kept_apart_and_added_up() -> None:
    records = [record(sent=1.0 + number, scenario="ab"[number % 3 == 0]) for number in range(9)]
    live = live_after(records, 30.0)
    assert [(each["name"], each["requests"]) for each in rows(live)] == [(ALL, 9), ("a", 6), ("b", 3)]
    assert [live.window(name)[0].ended["completed"] for name in (ALL, "a", "b")] == [9, 6, 3]


def test_tokens_are_counted_when_they_arrived_and_not_when_their_request_ended() -> None:
    live = live_after([record(sent=0.0, ttft=1.0, gap=2.0, tokens=5)], 30.0)
    assert [tally.tokens for tally in live.by_bin()[1]] == [1.0] * 5
    assert [tally.quantile_ms("itl", 0.5) for tally in live.by_bin()[1]] == [
        None,
        *[pytest.approx(2000, rel=0.025)] * 4,
    ]


def test_memory_does_not_grow_with_the_run_or_with_the_names_of_scenarios() -> None:
    clock = Clock()
    live = Live((), clock)
    for number in range(3 * KEPT_BINS):
        clock.now = live.origin + number * BIN_S + 1
        live.observe(record(sent=clock.now - 0.5, ttft=0.1, gap=0.001, tokens=2, scenario=f"s{number}"))
    assert len(live._bins) <= KEPT_BINS + 1
    assert len(live.scenarios) == MOST_SCENARIOS + 1
    assert live.totals[OTHERS] == 3 * KEPT_BINS - MOST_SCENARIOS
    assert len(live.by_bin()[0]) == KEPT_BINS


def test_a_record_from_a_clock_that_runs_ahead_does_not_push_the_others_out() -> None:
    live = live_after([record(sent=5000.0), record(sent=1.0)], 20.0)
    assert (live.totals["chat"], live.window()[0].ended["completed"]) == (2, 1)
    assert live.newest < 10


def test_a_new_run_forgets_the_one_before() -> None:
    live = live_after([record()], 20.0)
    live.reset()
    assert (live.scenarios, live.newest) == ([], -1)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-5, 0.02, 1.0, 999.0, 1e9])
def test_every_latency_has_a_bucket_at_most_two_and_a_half_percent_off(seconds: float) -> None:
    live = live_after([record(sent=1.0, ttft=0.1, gap=seconds, tokens=2)], 20.0)
    assert 0 <= bucket_of(seconds) < BUCKETS
    if 1e-5 < seconds < 10:
        tally, _ = live.window()
        assert tally.quantile_ms("itl", 0.5) == pytest.approx(1000 * seconds, rel=0.025)


def test_the_servers_state_is_drawn_where_it_is_known() -> None:
    live = live_after([record()], 20.0)
    samples = [
        {"source": "s", "replica": None, "t": t, "running": t, "waiting": 0.0, "kv_usage": 0.5} for t in (1.0, 2.0)
    ]
    drawn = {chart.id: chart for chart in charts(live, ALL, samples)}
    assert (drawn["running"].traces[0].x, drawn["running"].traces[0].y) == ([1.0, 2.0], [1.0, 2.0])
    assert {chart.id for chart in charts(live, ALL, [])} == {"ttft", "itl", "tokens", "user", "requests", "lag"}


HOSTILE = "</script><img src=x onerror=alert(1)>"


def environment_with(base: str | None) -> Any:
    """What ``attach`` needs of Locust's environment, with the two routes that it extends."""
    app = Flask(__name__)
    app.add_url_rule(f"{base or ''}/", "index", lambda: "<body>Locust</body>")
    app.add_url_rule(f"{base or ''}/stats/requests", "stats", lambda: {"state": "ready"})
    ui = SimpleNamespace(app=app, template_args={"version": "1"}, auth_required_if_enabled=lambda view: view)
    return SimpleNamespace(web_ui=ui, parsed_options=SimpleNamespace(web_base_path=base))


@pytest.fixture
def environment() -> Any:
    return environment_with(None)


@pytest.fixture
def ui(environment: Any) -> Iterator[FlaskClient]:
    live = live_after([record(sent=1.0), record(sent=2.0), record(sent=3.0, scenario=HOSTILE)], 20.0)
    attach(environment, live, lambda start: [{"source": "s", "replica": None, "t": 1.0, "running": start - start}])
    with environment.web_ui.app.test_client() as client:
        yield client


def test_locusts_page_has_the_tab_the_table_and_the_links(ui: FlaskClient, environment: Any) -> None:
    arguments = environment.web_ui.template_args
    assert arguments["version"] == "1"
    assert arguments["extended_tabs"] == [{"title": "LLM", "key": "llm"}]
    assert arguments["extended_tables"][0]["structure"][:2] == [
        {"key": "name", "title": "Scenario"},
        {"key": "requests", "title": "# Requests"},
    ]
    assert [each["href"] for each in arguments["extended_csv_files"]] == ["./llm/figures.csv", "./llm/"]
    assert ui.get("/").get_data(as_text=True).count('href="./llm/"') == 1


def test_the_statistics_that_locust_polls_carry_the_rows(ui: FlaskClient) -> None:
    answer = ui.get("/stats/requests").get_json()
    (extended,) = answer["extended_stats"]
    assert (answer["state"], extended["key"]) == ("ready", "llm")
    assert [(each["name"], each["requests"]) for each in extended["data"]] == [(ALL, 3), (HOSTILE, 1), ("chat", 2)]


def test_under_a_base_path_everything_lies_below_it() -> None:
    environment = environment_with("/load")
    attach(environment, live_after([record()], 20.0))
    client = environment.web_ui.app.test_client()
    assert 'href="./llm/"' in client.get("/load/").get_data(as_text=True)
    assert "extended_stats" in client.get("/load/stats/requests").get_json()
    assert [client.get(path).status_code for path in ("/load/llm/figures.json", "/llm/figures.json")] == [200, 404]


def test_the_csv_has_a_title_line_and_a_line_for_each_scenario(ui: FlaskClient) -> None:
    answer = ui.get("/llm/figures.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    lines = answer.get_data(as_text=True).splitlines()
    assert lines[0].startswith("Scenario,# Requests,Completed/s")
    assert [line.split(",")[:2] for line in lines[1:]] == [[ALL, "3"], [HOSTILE, "1"], ["chat", "2"]]


def test_the_charts_page_and_its_data_are_served_without_a_network(ui: FlaskClient) -> None:
    page = ui.get("/llm/").get_data(as_text=True)
    assert 'src="plotly.js"' in page
    assert "http" not in page.replace("http-equiv", "")
    assert len(ui.get("/llm/plotly.js").data) > 4_000_000
    data = ui.get("/llm/figures.json?scenario=chat").get_json()
    assert data["scenarios"] == [ALL, HOSTILE, "chat"]
    assert sum(value or 0 for value in data["charts"]["tokens"]["traces"][0]["y"]) * BIN_S == 22
    assert data["charts"]["running"]["traces"][0]["y"] == [0.0]
    assert ui.get("/llm/figures.json?scenario=unknown").get_json()["charts"]["tokens"]["traces"][0]["y"][0] == 0


def test_a_run_without_a_web_ui_is_left_alone() -> None:
    attach(SimpleNamespace(web_ui=None), Live())
