"""Prevents: a live view without numbers, in one process or in several; charts that never appear; a broken CSV link."""

import csv
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from loadtest._mock_process import mock_server
from tests.browser.chromium import DESK, PHONE, WAIT_S, browsing, complaints, until
from tests.live.deployment import eventually, free_port
from tests.locust_process import ROOT, with_a_port_to_meet

TABLE = """
return [...document.querySelectorAll("table")].map(table => [...table.rows].map(row => [...row.cells].map(
  cell => cell.textContent))).find(rows => rows.length > 1 && rows[0].includes("TTFT p50 (ms)"))
"""
SCENARIOS = "[...document.querySelectorAll('#scenario option')].map(option => option.text)"
ENOUGH = 15
"""Requests of a scenario whose medians do not show what held up a few."""


@pytest.fixture(scope="module", params=[(), ("--processes", "2")], ids=["one process", "two processes"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Locust's web UI during a run against the mock server: TTFT 50 ms, a token every 20 ms."""
    port = free_port()
    with mock_server("--ttft-s", "0.05", "--itl-s", "0.02") as server:
        command = [
            *(sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest"), "--host", server),
            *("--web-host", "127.0.0.1", "--web-port", str(port), "--autostart", "-u", "4", "-r", "4"),
            *("--slo", "ttft_p95<1s", *with_a_port_to_meet(request.param), "Chat", "Completion"),
        ]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            try:
                wait_until_running(f"http://127.0.0.1:{port}")
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()


def wait_until_running(url: str) -> None:
    """Poll until the run has begun: Locust's page shows nothing new when it was opened before."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(f"{url}/stats/requests", timeout=5) as answer:
            if json.load(answer)["state"] == "running":
                return
        time.sleep(0.1)
    pytest.fail(f"no run begins at {url}")


def complete(table: list[list[str]] | None) -> dict[str, dict[str, str]]:
    """Each row by its scenario, each cell by its title, once all three rows hold figures; until then nothing."""
    rows = {row[0]: dict(zip(table[0], row, strict=True)) for row in table[1:]} if table else {}
    # Closed loop: no schedule, so no lag.
    unknown = [title for row in rows.values() for title, cell in row.items() if cell == "–" and "Lag" not in title]
    return rows if len(rows) == 3 and not unknown else {}


def settled(table: list[list[str]] | None) -> dict[str, dict[str, str]]:
    """``complete``, once every row has ``ENOUGH`` requests."""
    rows = complete(table)
    return rows if all(int(row["# Requests"]) >= ENOUGH for row in rows.values()) else {}


def test_the_tab_shows_figures_by_scenario_while_the_run_goes_on(url: str) -> None:
    with browsing(DESK) as browser:
        browser.get(f"{url}/?tab=llm")
        rows = WebDriverWait(browser, WAIT_S).until(lambda one: settled(one.execute_script(TABLE)))
        assert set(rows) == {"all requests", "chat", "completion"}
        for row in rows.values():
            assert 45 < float(row["TTFT p50 (ms)"]) < 1000
            assert 10 < float(row["ITL p50 (ms)"]) < 200
            assert float(row["Tokens/s"]) > 0
            assert 1 < float(row["Tokens/s per user"]) < 51
            assert float(row["Failed %"]) == 0
        total = sum(float(rows[name]["Tokens/s"]) for name in ("chat", "completion"))
        assert float(rows["all requests"]["Tokens/s"]) == pytest.approx(total, rel=0.02)
        assert browser.find_element(By.LINK_TEXT, "LLM charts").get_attribute("href") == f"{url}/llm/"


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_charts_page_draws_and_updates_itself(url: str, size: tuple[int, int]) -> None:
    with browsing(size) as browser:
        browser.get(f"{url}/llm/")
        assert until(browser, "return document.documentElement.dataset.charts") == "drawn"
        shown = "[...document.querySelectorAll('.chart')].filter(one => !one.hidden && one.querySelector('.main-svg'))"
        assert until(browser, f"return {shown}.length === 8")
        points = "document.getElementById('plot-running').data[0].x.length"
        before = browser.execute_script(f"return {points}")
        assert until(browser, f"return {points} > {before}")
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        # A scenario appears with its first request.
        assert until(browser, f"return {SCENARIOS}.length === 3")
        assert browser.execute_script(f"return {SCENARIOS}") == ["all requests", "chat", "completion"]
        assert complaints(browser) == []
        foreign = "filter(name => !name.startsWith(location.origin) && !name.startsWith('data:'))"
        resources = f"performance.getEntriesByType('resource').map(one => one.name).{foreign}"
        assert browser.execute_script(f"return {resources}") == []


def csv_table(url: str) -> list[list[str]]:
    with urllib.request.urlopen(f"{url}/llm/figures.csv", timeout=30) as answer:
        return list(csv.reader(answer.read().decode().splitlines()))


def test_the_csv_link_gives_the_same_table(url: str) -> None:
    eventually(lambda: complete(csv_table(url)), WAIT_S, "the CSV file holds figures of all scenarios")
    table = csv_table(url)
    assert table[0][:6] == ["Scenario", "# Requests", "Completed/s", "Failed %", "Goodput/s", "TTFT p50 (ms)"]
    assert [row[0] for row in table[1:]] == ["all requests", "chat", "completion"]
