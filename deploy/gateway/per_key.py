"""Bounds how many requests of one key a replica runs at once."""

from collections import Counter

from deploy.gateway.asgi import App, Receive, Scope, Send
from deploy.gateway.errors import RATE_LIMIT, ApiError, answer
from deploy.gateway.limits import count_refusal
from deploy.gateway.request import current
from deploy.gateway.routes import JSON_ROUTES

RETRY_AFTER_S = 1
"""When one of the key's own requests ends is the key's own affair, so this is only the least that can be said."""


class RequestsPerKey:
    """ASGI middleware: answers 429 to a request on a JSON route while ``limit`` others of its key run."""

    def __init__(self, app: App, limit: int) -> None:
        self._app, self._limit = app, limit
        self._running: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        record = current()
        if record is None or record.key is None or record.route not in JSON_ROUTES:
            await self._app(scope, receive, send)
            return
        name = record.key_name
        if self._running[name] >= self._limit:
            count_refusal(record)
            message = (
                f"This key already has {self._limit} requests running here, as many as it may have. "
                f"Send the request again when one of them has ended."
            )
            await answer(
                ApiError(429, RATE_LIMIT, "too_many_requests_at_once", message, retry_after=RETRY_AFTER_S), scope, send
            )
            return
        self._running[name] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running[name] -= 1
            if not self._running[name]:
                del self._running[name]
