"""One deployment with two replicas for all tests of this folder, with keys and a usage log."""

from collections.abc import Iterator

import pytest

from tests.live.gateway.guarded import Guarded, guarded_server

PROGRESS_S = 1
"""How often each replica writes down what its running streams have used."""
QUOTA = 6
"""Requests/minute of the key ``limited``."""


@pytest.fixture(scope="package")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    limited = ("limited", "--requests-per-minute", str(QUOTA))
    flags = ("--replicas", "2", "--usage.progress-s", str(PROGRESS_S))
    with guarded_server(tmp_path_factory.mktemp("pair"), ("free",), limited, *flags) as server:
        yield server
