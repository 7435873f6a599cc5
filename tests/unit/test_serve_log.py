"""Prevents a replica that forgets where it logs, which a controller that comes back takes for a dead one."""

import logging
from collections.abc import Iterator
from logging.config import dictConfig
from logging.handlers import MemoryHandler
from pathlib import Path

import pytest

from deploy.serve_log import serve_log_kept


@pytest.fixture
def handler(tmp_path: Path) -> Iterator[MemoryHandler]:
    """As Ray Serve sets up a replica's log."""
    file = logging.FileHandler(tmp_path / "replica.log")
    handler, logger = MemoryHandler(1, target=file), logging.getLogger("ray.serve")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    handler.close()
    file.close()


def test_what_vllm_does_to_logs_leaves_the_replica_its_file(handler: MemoryHandler, tmp_path: Path) -> None:
    with serve_log_kept():
        dictConfig({"version": 1, "disable_existing_loggers": False})
        assert handler.target is None
    logging.getLogger("ray.serve").warning("still here")
    assert "still here" in (tmp_path / "replica.log").read_text()
