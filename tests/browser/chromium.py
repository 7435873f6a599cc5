"""A real Chromium without a window, as a phone or as a desk's screen; nothing that it does leaves the machine."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
DESK, PHONE = (1280, 900), (390, 844)
WAIT_S = 60
"""Only a page that never gets there waits that long."""
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
)


@contextmanager
def browsing(size: tuple[int, int]) -> Iterator[webdriver.Chrome]:
    """A browser whose page is that large, in pixels of the style sheet."""
    if BROWSER is None or DRIVER is None:
        pytest.skip("THE PAGES ARE NOT TESTED: install Debian's chromium and chromium-driver")
    width, height = size
    options = Options()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.add_experimental_option(
        "mobileEmulation",
        {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1, "touch": size == PHONE}},
    )
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield browser
    finally:
        browser.quit()


def until(browser: webdriver.Chrome, script: str) -> Any:
    """Wait until a script returns something true, and return it."""
    return WebDriverWait(browser, WAIT_S, poll_frequency=0.1).until(lambda one: one.execute_script(script))


def complaints(browser: webdriver.Chrome) -> list[str]:
    """What the console holds: errors, warnings, refused resources."""
    entries: list[dict[str, Any]] = browser.get_log("browser")  # type: ignore[no-untyped-call]
    return [entry["message"] for entry in entries]
