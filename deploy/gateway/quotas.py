"""Holds every key to its quotas: so many requests, and so many tokens, in a minute."""

import asyncio
import logging
import math
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from deploy.gateway.asgi import App, Message, Receive, Scope, Send
from deploy.gateway.at_end import at_end
from deploy.gateway.errors import RATE_LIMIT, SERVER, ApiError, answer
from deploy.gateway.quota_book import Book, Verdict
from deploy.gateway.request import RequestRecord, current
from deploy.gateway.routes import GENERATING
from deploy.metrics import QUOTA_FAILURES, REJECTIONS
from deploy.settings import QuotaSettings

RETRY_AFTER_FAILURE_S = 5
"""After a refusal because the counts could not be reached: the time in which Ray restarts their actor."""

# The replica's own log, where an operator looks for what a replica did.
logger = logging.getLogger("ray.serve")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Quota:
    """What the key of one request may use in a minute; ``None`` is no limit."""

    key_name: str
    requests: int | None
    tokens: int | None


class Quotas:
    """ASGI middleware: counts the requests that generate, and answers 429 to those beyond their key's quota.

    The tokens that a request used are charged after it ended, however it ended, without anybody waiting for that.
    """

    def __init__(self, app: App, book: Book, settings: QuotaSettings) -> None:
        self._app, self._book, self._settings = app, book, settings
        self._failing = False
        self._charges: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        record = current()
        quota = None if record is None else self._quota(scope, record)
        if record is None or quota is None:
            await self._app(scope, receive, send)
            return
        verdict = await self._reach(self._book.take(quota.key_name, quota.requests, quota.tokens))
        if (error := self._refusal(verdict)) is not None:
            REJECTIONS.labels(key=quota.key_name, reason="quota").inc()
            await answer(error, scope, send, _headers(verdict))
            return
        # Added before the app's own actions and so done after them: they count what an answer that is no stream used.
        at_end(partial(self._charge, quota, record))
        await self._app(scope, receive, _with_headers(send, _headers(verdict)))

    def _quota(self, scope: Scope, record: RequestRecord) -> _Quota | None:
        """The quota that this request is held to; ``None`` for one that is not counted."""
        key = record.key
        if scope["type"] != "http" or scope["method"] != "POST" or key is None or record.route not in GENERATING:
            return None
        requests = key.requests_per_minute or self._settings.requests_per_minute
        tokens = key.tokens_per_minute or self._settings.tokens_per_minute
        return None if requests is None and tokens is None else _Quota(key.name, requests, tokens)

    def _refusal(self, verdict: Verdict | None) -> ApiError | None:
        if verdict is None:
            return _unreachable() if self._settings.on_failure == "refuse" else None
        return _used_up(verdict) if verdict.exhausted else None

    def _charge(self, quota: _Quota, record: RequestRecord) -> None:
        """In a task of its own, which the end of this request does not cancel."""
        used = record.prompt_tokens + record.completion_tokens
        if quota.tokens is None or used == 0:
            return
        task = asyncio.create_task(self._reach(self._book.charge(quota.key_name, quota.tokens, used)))
        # The event loop itself keeps no task alive.
        self._charges.add(task)
        task.add_done_callback(self._charges.discard)

    async def _reach(self, asked: Awaitable[Result]) -> Result | None:
        """What the book answers; ``None`` when it could not be reached in time."""
        try:
            async with asyncio.timeout(self._book.timeout_s):
                result = await asked
        except Exception as error:
            QUOTA_FAILURES.inc()
            if not self._failing:
                # Its name only: the message could hold an address.
                logger.warning("quotas cannot be counted (%s); quotas.on_failure decides", type(error).__name__)
            self._failing = True
            return None
        if self._failing:
            logger.info("quotas are counted again")
        self._failing = False
        return result


def _used_up(verdict: Verdict) -> ApiError:
    """429: a quota of the key has nothing left."""
    quotas = " and ".join(f"{window.limit} {kind}" for kind, window in verdict.exhausted.items())
    message = (
        f"This key has used up its quota of {quotas} per minute. Send the request again in {verdict.retry_after} s."
    )
    return ApiError(429, RATE_LIMIT, "rate_limit_exceeded", message, retry_after=verdict.retry_after)


def _unreachable() -> ApiError:
    """503: nobody knows what is left."""
    message = "The quota of this key cannot be read now. Send the request again later."
    return ApiError(503, SERVER, "quota_unavailable", message, retry_after=RETRY_AFTER_FAILURE_S)


def _headers(verdict: Verdict | None) -> tuple[tuple[bytes, bytes], ...]:
    """OpenAI's headers (https://platform.openai.com/docs/guides/rate-limits, "Rate limits in headers")."""
    windows = verdict.windows.items() if verdict is not None else ()
    values = {
        f"x-ratelimit-{what}-{kind}": value
        for kind, window in windows
        for what, value in (
            ("limit", str(window.limit)),
            ("remaining", str(window.remaining)),
            ("reset", _duration(math.ceil(window.reset_s))),
        )
    }
    return tuple((name.encode(), value.encode()) for name, value in values.items())


def _duration(seconds: int) -> str:
    """As OpenAI writes it: ``1s``, ``6m0s``."""
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _with_headers(send: Send, headers: tuple[tuple[bytes, bytes], ...]) -> Send:
    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *headers]
        await send(message)

    return marked
