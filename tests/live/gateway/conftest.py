"""One server for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.live.deployment import serving
from tests.live.gateway.guarded import Guarded, new_key

LONGEST_S = 20
"""Time that one request may take here: longer than every request that is to succeed."""


@pytest.fixture(scope="package")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("gateway")
    file, usage = directory / "keys.yaml", directory / "usage"
    key = new_key(file, "--name", "team")
    restricted = new_key(file, "--name", "restricted", "--models", "another-model")
    flags = ["--gateway.keys-file", str(file), "--gateway.open-metrics", "--usage.directory", str(usage)]
    flags += ["--usage.progress-s", "1", "--log.format", "json", "--limits.request-s", str(LONGEST_S)]
    flags += ["--limits.requests-per-key", "8"]
    with serving(*flags) as server:
        yield Guarded(server, file, usage, key, restricted, [key, restricted])
