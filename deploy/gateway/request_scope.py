"""The outermost middleware: gives every request its id and its record, and tells the observers of it."""

import re
import time
import uuid
from collections.abc import Sequence

from deploy.gateway.asgi import App, Message, Receive, Scope, Send, header, path_of
from deploy.gateway.errors import answer, of_status
from deploy.gateway.request import Observer, RequestRecord, enter
from deploy.gateway.routes import template_of

REQUEST_ID = b"x-request-id"
_WELL_FORMED = re.compile(rb"[A-Za-z0-9._-]{1,128}")
"""The same rule as in ``deploy.proxy``: short, and harmless in a log line."""


class RequestScope:
    """ASGI middleware: makes the ``RequestRecord``, puts ``x-request-id`` on the answer, and calls the observers.

    A client's own id is kept when it is well-formed. An observer is called when the request comes and when it ends.
    """

    def __init__(self, app: App, observers: Sequence[Observer] = ()) -> None:
        self._app, self._observers = app, tuple(observers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request inside its record; a failure before any answer is answered with 500 and raised again."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        traceparent = header(scope, b"traceparent")
        record = RequestRecord(
            id=_request_id(scope),
            method=scope["method"],
            route=template_of(path_of(scope)),
            traceparent=None if traceparent is None else traceparent.decode("latin-1"),
        )
        enter(record)
        self._tell(record)
        marked = _marked(send, record)
        try:
            await self._app(_with_id(scope, record.id), _watched(receive, record), marked)
        except Exception:
            if not record.status:
                await answer(of_status(500), scope, marked)
            raise
        finally:
            record.ended = time.monotonic()
            self._tell(record)

    def _tell(self, record: RequestRecord) -> None:
        for observer in self._observers:
            observer(record)


def _request_id(scope: Scope) -> str:
    given = header(scope, REQUEST_ID)
    return given.decode() if given is not None and _WELL_FORMED.fullmatch(given) else str(uuid.uuid4())


def _with_id(scope: Scope, request_id: str) -> Scope:
    scope["headers"] = [pair for pair in scope["headers"] if pair[0] != REQUEST_ID]
    scope["headers"].append((REQUEST_ID, request_id.encode()))
    return scope


def _watched(receive: Receive, record: RequestRecord) -> Receive:
    async def watched() -> Message:
        message = await receive()
        if message["type"] == "http.disconnect" and not record.complete:
            record.hung_up = True
        return message

    return watched


def _marked(send: Send, record: RequestRecord) -> Send:
    async def marked(message: Message) -> None:
        if record.hung_up:
            # vLLM's app ends such a request as if it had been answered.
            return
        if message["type"] == "http.response.start":
            record.status = message["status"]
            headers = [pair for pair in message.get("headers", ()) if pair[0] != REQUEST_ID]
            message["headers"] = [*headers, (REQUEST_ID, record.id.encode())]
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            record.complete = True
        await send(message)

    return marked
