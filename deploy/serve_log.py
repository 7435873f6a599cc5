"""Keeps Ray Serve's log of a replica open while vLLM is imported."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler


@contextmanager
def serve_log_kept() -> Iterator[None]:
    """Give Ray Serve's handlers their files back, which ``logging.config.dictConfig`` takes from them.

    vLLM calls it when it is imported (``vllm/logger.py``), and it closes every handler of the process. A replica
    without its log writes no more, and what is worse, a Serve controller that comes back asks every replica for the
    name of its log and replaces those that fail on it (``get_component_logger_file_path`` in Ray 2.60's
    ``serve/_private/logging_utils.py``): losing the head would cost every loaded model.
    """
    handlers = [one for one in logging.getLogger("ray.serve").handlers if isinstance(one, MemoryHandler)]
    targets = [handler.target for handler in handlers]
    try:
        yield
    finally:
        for handler, target in zip(handlers, targets, strict=True):
            # A closed file handler opens its file again with the next record.
            handler.setTarget(target)
