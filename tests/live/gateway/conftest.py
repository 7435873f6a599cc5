"""One server for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.live.gateway.guarded import Guarded, guarded_server

LONGEST_S = 20
"""Time that one request may take here: longer than every request that is to succeed."""


@pytest.fixture(scope="package")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    flags = ["--gateway.open-metrics", "--usage.progress-s", "1", "--log.format", "json"]
    flags += ["--limits.request-s", str(LONGEST_S), "--limits.requests-per-key", "8"]
    restricted = ("restricted", "--models", "another-model")
    with guarded_server(tmp_path_factory.mktemp("gateway"), ("team",), restricted, *flags) as server:
        yield server
