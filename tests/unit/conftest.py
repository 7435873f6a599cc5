"""Fixtures of the unit tests: an environment without the developer's own settings, and a server for load tests."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from deploy.settings import ENV_PREFIX
from loadtest._mock_process import mock_server
from tests.locust_process import FAST
from tests.unit.wall_clock import WallClock

# An example that the machine holds up is no failure, and the same examples are tried each time.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Sets environment variables, given without the prefix."""

    def set_all(values: dict[str, str]) -> None:
        for name, value in values.items():
            monkeypatch.setenv(ENV_PREFIX + name, value)

    return set_all


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """What ``time.time`` tells, to the storage of quotas as well."""
    clock = WallClock()
    monkeypatch.setattr(time, "time", clock)
    return clock


@pytest.fixture(scope="module")
def mock() -> Iterator[str]:
    """The URL of a mock server that answers fast."""
    with mock_server(*FAST) as url:
        yield url


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Where a load test writes its report."""
    return tmp_path / "report"
