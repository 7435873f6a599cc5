"""Reads the body of a request, once and bounded, for everything behind that looks into it."""

import json
import sys
from typing import Any

from deploy.gateway.asgi import App, Message, Receive, Scope, Send, header
from deploy.gateway.errors import Refused, answer, not_json, too_large
from deploy.gateway.limits import count_refusal
from deploy.gateway.model_access import check_model
from deploy.gateway.request import current
from deploy.gateway.routes import JSON_ROUTES

CONTENT_LENGTH = b"content-length"
_REASONS = {413: "limit", 403: "model"}
"""Why the metrics say that a request was refused, by the status; a mere mistake (400) is not counted."""


class ReadBody:
    """ASGI middleware: puts the parsed body of every POST to a JSON route into the request's record.

    There, what is no JSON object is answered with 400, and a model that the key may not use with 403. Everywhere a body
    of more than ``limit`` bytes is answered with 413; ``None`` is no limit.
    """

    def __init__(self, app: App, limit: int | None) -> None:
        self._app, self._limit = app, sys.maxsize if limit is None else limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, parse, and pass the request on with its body to be read again."""
        record = current()
        if scope["type"] != "http" or scope["method"] != "POST" or record is None:
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(scope, receive)
            if record.route in JSON_ROUTES:
                record.body = _json_object(body)
                if record.key is not None:
                    check_model(record.key, record.body)
        except Refused as refused:
            if (reason := _REASONS.get(refused.error.status)) is not None:
                count_refusal(record, reason)
            await answer(refused.error, scope, send)
            return
        await self._app(scope, again(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        length = header(scope, CONTENT_LENGTH) or b"0"
        if not length.isdigit() or int(length) > self._limit:
            raise too_large(self._limit)
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise not_json()
            body += message.get("body", b"")
            if len(body) > self._limit:
                raise too_large(self._limit)
            if not message.get("more_body", False):
                return bytes(body)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        # As FastAPI reads it, so that both see the same value where a key appears twice.
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise not_json() from None
    if not isinstance(content, dict):
        raise not_json()
    return content


def again(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives ``body`` first, and then what comes from the client after it."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def replaced(scope: Scope, body: dict[str, Any], receive: Receive) -> Receive:
    """A ``receive`` that gives ``body`` in place of the client's; ``scope``'s content length is set to it."""
    content = json.dumps(body).encode()
    scope["headers"] = [pair for pair in scope["headers"] if pair[0] != CONTENT_LENGTH]
    scope["headers"].append((CONTENT_LENGTH, str(len(content)).encode()))
    return again(content, receive)
