"""One server for the tests of this folder: the demo model as `make serve` starts it, without any other setting."""

from collections.abc import Iterator

import pytest

from tests.live.deployment import Deployment, serving


@pytest.fixture(scope="package")
def server() -> Iterator[Deployment]:
    """One replica of the demo model on every core.

    For this folder, not for the session: a second deployment would find no free core beside it.
    """
    with serving() as deployment:
        yield deployment
