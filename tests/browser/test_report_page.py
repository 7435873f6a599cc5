"""Prevents: a report that draws nothing, is wider than a phone, asks the network, or runs what a server sent it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from loadtest._report import write_report
from loadtest._request import ErrorKind
from loadtest._summary import build
from tests.browser.chromium import DESK, PHONE, WAIT_S, browsing, complaints, until
from tests.unit.loadtest_overload import OBJECTIVES, overloaded_run
from tests.unit.loadtest_runs import failure, record, run_of

HOSTILE = "</script><script>window.attacked = 1</script><img src=x onerror='window.attacked = 1'>"
DRAWN = "return document.documentElement.dataset.charts"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = overloaded_run()
    return write_report(run, build(run, OBJECTIVES), tmp_path_factory.mktemp("report")).as_uri()


@pytest.fixture(scope="module", params=[DESK, PHONE], ids=["desk", "phone"])
def browser(request: pytest.FixtureRequest, page: str) -> Iterator[webdriver.Chrome]:
    with browsing(request.param) as one:
        one.get(page)
        assert until(one, DRAWN) == "drawn"
        yield one


def test_every_chart_is_drawn_and_the_console_stays_empty(browser: webdriver.Chrome) -> None:
    plots = browser.find_elements(By.CSS_SELECTOR, ".plot")
    drawn = browser.find_elements(By.CSS_SELECTOR, ".plot .main-svg .plot path, .plot .main-svg .bars path")
    assert len(plots) == len(browser.find_elements(By.CSS_SELECTOR, ".plot .main-svg:first-child")) > 20
    assert len(drawn) > len(plots)
    assert complaints(browser) == []


def test_nothing_is_wider_than_the_screen(browser: webdriver.Chrome) -> None:
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    beyond = "filter(element => element.getBoundingClientRect().right > innerWidth)"
    assert browser.execute_script(f"return [...document.querySelectorAll('.plot svg, .card')].{beyond}") == []


def test_nothing_is_asked_of_a_network(browser: webdriver.Chrome) -> None:
    assert browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []


def test_zooming_one_chart_zooms_all_that_share_its_axis(browser: webdriver.Chrome) -> None:
    def first_seconds() -> list[float]:
        of = "['ttft', 'itl', 'running', 'cpu'].map(id => document.getElementById('plot-' + id).layout.xaxis.range[0])"
        found: list[float] = browser.execute_script(f"return {of}")
        return found

    relayout = "Plotly.relayout(document.getElementById('plot-ttft'), {})"
    browser.execute_script(relayout.format("{'xaxis.range[0]': 50, 'xaxis.range[1]': 80}"))
    WebDriverWait(browser, WAIT_S).until(lambda _: first_seconds() == [50, 50, 50, 50])
    browser.execute_script(relayout.format("{'xaxis.autorange': true}"))
    WebDriverWait(browser, WAIT_S).until(lambda _: first_seconds() == [0, 0, 0, 0])


def test_a_scenario_can_be_chosen_for_the_latency_bands(browser: webdriver.Chrome) -> None:
    median = "return document.getElementById('plot-ttft').data.at(-1).y.join()"
    before = browser.execute_script(median)
    select = Select(browser.find_element(By.CSS_SELECTOR, "select[data-chart=ttft]"))
    assert [option.text for option in select.options] == ["all requests", "chat", "long-context"]
    select.select_by_visible_text("long-context")
    assert browser.execute_script(median) != before
    select.select_by_visible_text("all requests")
    assert browser.execute_script(median) == before


def test_light_and_dark_are_a_button_away_for_page_and_charts(browser: webdriver.Chrome) -> None:
    ink = "return document.getElementById('plot-ttft').layout.font.color"
    colours = set()
    for _ in range(2):
        browser.find_element(By.ID, "theme").click()
        background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        colours.add((background, browser.execute_script(ink)))
    assert colours == {("rgb(245, 246, 248)", "#16191f"), ("rgb(16, 19, 23)", "#e9ecf1")}


def test_paper_gets_the_charts_too_and_the_screen_is_as_before_afterwards(browser: webdriver.Chrome) -> None:
    width = "return document.querySelector('#plot-ttft .main-svg').clientWidth"
    before = browser.execute_script(width)
    assert len(browser.print_page()) > 100_000
    assert until(browser, f"return (() => {{ {width} }})() === {before}")
    assert complaints(browser) == []


def test_what_a_server_sent_is_shown_and_not_run(tmp_path: Path) -> None:
    records = [
        record(sent=6.0, scenario=HOSTILE),
        record(sent=7.0),
        failure(ErrorKind.STATUS, sent=8.0, detail=HOSTILE),
    ]
    server = [
        {"source": "s", "replica": each, "t": 6.0 + number, "running": 1.0, "kv_usage": 0.5}
        for number in range(9)
        for each in (HOSTILE, "b")
    ]
    run = run_of(records, model=HOSTILE, command=HOSTILE, server=server, duration_s=20.0)
    path = write_report(run, build(run, ["ttft_p95<50ms"]), tmp_path)
    with browsing(DESK) as browser:
        browser.get(path.as_uri())
        assert until(browser, DRAWN) == "drawn"
        assert browser.execute_script("return window.attacked") is None
        assert browser.find_element(By.TAG_NAME, "h1").text == HOSTILE
        legend = browser.find_elements(By.CSS_SELECTOR, "#plot-kv .legendtext")
        assert HOSTILE in [element.text for element in legend]
        assert complaints(browser) == []
