"""Turns the error answers of the app behind it into OpenAI's error object.

vLLM answers most mistakes with an error object whose ``type`` is the name of a Python class and whose ``code`` is a
number; FastAPI and Starlette answer others with ``{"detail": …}`` or plain text. A 5xx may quote any exception. Here
each gets the type, the code and, for a 5xx, also the message that belong to its status.

Some bodies make vLLM fail while it reads them: that 500 becomes a 400. Any 500 of a dead engine becomes a 503.

An error inside a stream of server-sent events is an event of that stream: it is rewritten likewise, and ends the
stream. An exception gets such an event too. A part deep inside the app that refuses a request leaves its error in the
request's record; that is answered in place of what the app made of it.
"""

import ast
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from deploy.gateway.asgi import App, Message, Receive, Scope, Send, header, path_of
from deploy.gateway.errors import MODEL_NOT_FOUND, ApiError, answer, of_status
from deploy.gateway.request import current

LONGEST_BODY = 64 * 1024
"""Bytes of an error's body that are read; a longer one is replaced by the general sentence of its status."""

_OF_THE_OLD_BODY = {b"content-type", b"content-length", b"content-encoding", b"transfer-encoding"}
_VALIDATION = re.compile(r"(\d+) validation errors?:\n")
"""How vLLM begins its list of what pydantic found wrong (``exception_handling/handlers/validation.py``)."""
_PYDANTIC = re.compile(r"(\d+) validation errors? for .+\n.+\n  (?:Value error, )?(.+?) \[type=")
"""How pydantic writes its own list."""
_SAID = re.compile(r"""'msg': ('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
_UNREADABLE = replace(of_status(400), message="The server cannot read this request: a field has a form that none has.")
_EVENT_STREAM = b"text/event-stream"
_ERROR_LINES = (b'\ndata: {"error"', b"\nevent: error\n")
"""How an error's event begins in vLLM's streams: of chats and completions, and of Anthropic's messages."""
_PHRASES = {status.phrase for status in HTTPStatus}


def translate(status: int, body: bytes) -> ApiError:
    """The error that the app meant with this status (400 to 599) and body; nothing of the body of a 5xx is kept."""
    general = of_status(status)
    if status >= 500:
        return general
    said = _said(body)
    message, param, code = (_text(said.get(name)) for name in ("message", "param", "code"))
    if status == 404 and param == "model":
        code = MODEL_NOT_FOUND
    # Starlette's own answers say no more than the status does.
    message = general.message if message in _PHRASES else message
    if message is not None and (mistakes := _VALIDATION.match(message)):
        param = None if param is None else param.removeprefix("body.")
        message = _first_mistake(message, int(mistakes[1]), param)
    elif message is not None and (mistakes := _PYDANTIC.match(message)):
        message = mistakes[2] + _others(int(mistakes[1]))
    return replace(general, message=message or general.message, param=param, code=code or general.code)


def _said(body: bytes) -> Mapping[str, Any]:
    """The fields of OpenAI's error object, wherever the body has them."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    error, detail = content.get("error"), content.get("detail")
    if isinstance(error, dict):
        return error
    if isinstance(detail, list):
        return {"message": "; ".join(_field_mistake(entry) for entry in detail if isinstance(entry, dict))}
    return content | {"message": error or detail or content.get("message")}


def _field_mistake(entry: Mapping[str, Any]) -> str:
    """One entry of FastAPI's list of wrong fields."""
    place = ".".join(str(part) for part in entry.get("loc", []))
    return f"{place}: {entry.get('msg', 'not valid')}"


def _first_mistake(message: str, count: int, param: str | None) -> str | None:
    """What the first of pydantic's mistakes says. The whole text would quote the client's input and our types."""
    said = _SAID.search(message)
    if said is None:
        return None
    try:
        text = str(ast.literal_eval(said[1])).removeprefix("Value error, ")
    except (ValueError, SyntaxError):
        return None
    return (f"{param}: {text}" if param else text) + _others(count)


def _others(count: int) -> str:
    return f" ({count - 1} more like it)" if count > 1 else ""


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _error_start(chunk: bytes) -> int:
    """Where in a part of a stream its first error's event begins; -1 without one. vLLM sends every event whole."""
    lines = b"\n" + chunk
    return min((at for line in _ERROR_LINES if (at := lines.find(line)) >= 0), default=-1)


def _data_of(events: bytes) -> tuple[int, bytes]:
    """The status (400 to 599) and the data of the error's event with which ``events`` begins."""
    data = events.partition(b"data: ")[2].partition(b"\n")[0]
    code = _said(data).get("code")
    return code if isinstance(code, int) and 400 <= code <= 599 else 500, data


def _refused() -> ApiError | None:
    record = current()
    return None if record is None else record.refused


def _is_faulty() -> bool:
    record = current()
    return record is not None and record.is_faulty


class OpenAIErrors:
    """ASGI middleware: rewrites responses whose status is 400 or above, and errors in event streams.

    Everything else passes as it comes. ``engine_is_dead`` is asked when the app has failed.
    """

    def __init__(self, app: App, engine_is_dead: Callable[[], bool] = lambda: False) -> None:
        self._app, self._engine_is_dead = app, engine_is_dead

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; an exception is answered, and raised again unless the request is at fault."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        response = _Response(scope, send, self._engine_is_dead)
        try:
            await self._app(scope, receive, response.send)
        except Exception:
            await response.fail()
            if self._engine_is_dead() or not _is_faulty():
                raise


class _Response:
    def __init__(self, scope: Scope, send: Send, engine_is_dead: Callable[[], bool]) -> None:
        self._scope, self._send, self._engine_is_dead = scope, send, engine_is_dead
        self._started = self._is_event_stream = self._answered = False
        self._error: Message | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        """What the app calls as ``send``."""
        if self._error is not None:
            await self._collect(message)
        elif message["type"] == "http.response.start" and message["status"] >= 400:
            self._error = message
        elif message["type"] == "http.response.start":
            self._started = True
            self._is_event_stream = (header(message, b"content-type") or b"").startswith(_EVENT_STREAM)
            await self._send(message)
        elif self._answered:
            return
        elif self._is_event_stream and (at := _error_start(message.get("body", b""))) >= 0:
            await self._end_stream(message["body"][:at], message["body"][at:])
        else:
            await self._send(message)

    async def fail(self) -> None:
        """Answer for an app that ended with an exception."""
        if self._error is not None:
            await self._answer()
        elif not self._started:
            await answer(self._meant(500, b""), self._scope, self._send)
        elif self._is_event_stream and not self._answered:
            await self._send_event(b"", 500, b"")

    def _meant(self, status: int, body: bytes) -> ApiError:
        """The error to answer with in place of the app's."""
        if (refused := _refused()) is not None:
            return refused
        if status != HTTPStatus.INTERNAL_SERVER_ERROR:
            return translate(status, body)
        if self._engine_is_dead():
            return of_status(503)
        return _UNREADABLE if _is_faulty() else of_status(500)

    async def _end_stream(self, passed: bytes, events: bytes) -> None:
        """Send what came before the error's event and our event of it, as the last of the stream."""
        await self._send_event(passed, *_data_of(events))

    async def _send_event(self, passed: bytes, status: int, body: bytes) -> None:
        self._answered = True
        if (record := current()) is not None:
            record.fail()
        event = self._meant(status, body).event(path_of(self._scope))
        await self._send({"type": "http.response.body", "body": passed + event})

    async def _collect(self, message: Message) -> None:
        if self._answered or message["type"] != "http.response.body":
            return
        self._body += message.get("body", b"")
        too_long = len(self._body) > LONGEST_BODY
        if too_long:
            self._body = b""
        if too_long or not message.get("more_body", False):
            await self._answer()

    async def _answer(self) -> None:
        if self._answered or self._error is None:
            return
        self._answered = True
        status, kept = self._error["status"], None
        if _refused() is None and status != HTTPStatus.INTERNAL_SERVER_ERROR:
            headers = self._error.get("headers", ())
            kept = tuple((name, value) for name, value in headers if name not in _OF_THE_OLD_BODY)
        await answer(self._meant(status, self._body), self._scope, self._send, kept)
