"""One deployment with two replicas for all tests of this folder, with keys and a usage log."""

from collections.abc import Iterator

import pytest

from tests.live.deployment import serving
from tests.live.gateway.guarded import Guarded, new_key

PROGRESS_S = 1
"""How often each replica writes down what its running streams have used."""
QUOTA = 6
"""Requests/minute of the key ``limited``."""


@pytest.fixture(scope="package")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("pair")
    file, usage = directory / "keys.yaml", directory / "usage"
    key = new_key(file, "--name", "free")
    limited = new_key(file, "--name", "limited", "--requests-per-minute", str(QUOTA))
    flags = ["--replicas", "2", "--gateway.keys-file", str(file), "--usage.directory", str(usage)]
    with serving(*flags, "--usage.progress-s", str(PROGRESS_S)) as server:
        yield Guarded(server, file, usage, key, limited, [key, limited])
