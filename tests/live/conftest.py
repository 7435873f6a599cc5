"""Fixtures of the live tests: the demo model on the real engine."""

from collections.abc import Iterator

import pytest

from tests.live.deployment import Deployment, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Deployment]:
    """One replica of the demo model on every core, with the demo profile, as `make serve` starts it.

    For a module, not for the session: a second deployment would find no free core beside it.
    """
    with serving() as deployment:
        yield deployment
