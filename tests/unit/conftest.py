"""Fixtures of the unit tests: an environment that holds none of the developer's own settings."""

import os
from collections.abc import Callable

import pytest

from deploy.settings import ENV_PREFIX


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
