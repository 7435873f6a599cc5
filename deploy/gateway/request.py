"""One request as the whole gateway sees it, from its arrival to its last byte.

The record is made by the outermost middleware and found again with ``current()`` by everything that serves the same
request, the engine's wrapper included: a context variable reaches the tasks that vLLM's app starts for it.
"""

import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from deploy.gateway.errors import ApiError
from deploy.gateway.key_file import Key


@dataclass
class RequestRecord:
    """What is known of one request. Times are readings of ``time.monotonic`` in seconds, unless said otherwise.

    ``route`` is a template of ``routes.RULES``, never the path itself, which could hold anything. ``refused`` is the
    error that a part deep inside the app wants answered in place of what the app makes of its exception.
    """

    id: str
    method: str
    route: str
    received: float = field(default_factory=time.monotonic)
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    traceparent: str | None = None
    """The caller's W3C trace context (https://www.w3.org/TR/trace-context/)."""
    key: Key | None = None
    body: dict[str, Any] | None = field(default=None, repr=False)
    refused: ApiError | None = None
    engine_asked: bool = False
    """vLLM has understood the request, and asked the engine."""
    admitted: bool = False
    """Admission let its first call of the engine pass."""
    status: int = 0
    """Status that was sent; 0 while none was."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    engine_entered: float | None = None
    """When the engine was given the request."""
    queued_s: float | None = None
    """From there until the engine scheduled it."""
    prefill_s: float | None = None
    """From being scheduled to the first token."""
    first_token: float | None = None
    ended: float | None = None
    complete: bool = False
    """The last byte of the answer was handed over."""
    failed: bool = False
    """An answer that had begun ended with an error."""
    hung_up: bool = False
    """The client went away before that."""

    def fail(self) -> None:
        """The answer, which has begun, is ended with an error now. A complete one, or one that nobody takes, is not."""
        if not (self.complete or self.hung_up):
            self.failed = True

    @property
    def is_faulty(self) -> bool:
        """Whether a failure would be the request's own: vLLM fails while it still reads the body, or was refused."""
        return self.refused is not None or (self.body is not None and not self.engine_asked)

    @property
    def key_name(self) -> str:
        """Name of the key; empty where none was needed."""
        return self.key.name if self.key is not None else ""

    @property
    def priority(self) -> int:
        """vLLM's priority of this request: a lower number is served earlier."""
        return self.key.engine_priority if self.key is not None else 0


Observer = Callable[[RequestRecord], None]
"""Told of every request twice: when it was let in (``ended`` is ``None``), and when it ended."""

_current: ContextVar[RequestRecord] = ContextVar("request")


def current() -> RequestRecord | None:
    """The request that this task serves; ``None`` outside of one."""
    return _current.get(None)


def enter(record: RequestRecord) -> None:
    """Make ``record`` the request that this task, and every task it starts from now on, serves."""
    _current.set(record)
