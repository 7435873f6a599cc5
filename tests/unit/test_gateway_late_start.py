"""Prevents: a streamed response whose refusal comes after its 200, where no client finds it."""

from collections.abc import Callable
from typing import Any

import pytest

from deploy.gateway.asgi import Receive, Scope, Send
from deploy.gateway.error_bodies import OpenAIErrors
from deploy.gateway.errors import RATE_LIMIT, ApiError, Refused
from deploy.gateway.late_start import LateStart
from deploy.gateway.request import RequestRecord, current
from deploy.gateway.request_scope import RequestScope
from tests.unit.asgi_calls import Response, Upstream, call, scope_of
from tests.unit.key_gate import CHAT

RESPONSES = "/v1/responses"
CREATED, DELTA = (
    b'event: response.%s\ndata: {"type":"response.%s"}\n\n' % (name, name) for name in (b"created", b"delta")
)
OVERLOADED = ApiError(429, RATE_LIMIT, "server_overloaded", "Come again.", retry_after=3)


class Streaming:
    """As vLLM streams a response: the beginning, then the engine, then what it made."""

    def __init__(self, ask: Callable[[RequestRecord], None]) -> None:
        self.ask = ask
        self.status_when_asked: list[int] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = current()
        assert record is not None
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": CREATED, "more_body": True})
        self.status_when_asked.append(record.status)
        record.engine_asked = True
        self.ask(record)
        await send({"type": "http.response.body", "body": DELTA, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def ask(app: Any, path: str = RESPONSES) -> Response:
    return call(RequestScope(OpenAIErrors(LateStart(app))), scope_of(path))


def refuse(record: RequestRecord) -> None:
    record.refused = OVERLOADED
    raise Refused(OVERLOADED)


def refuse_in_the_background(record: RequestRecord) -> None:
    record.refused = OVERLOADED


@pytest.mark.parametrize("how", [refuse, refuse_in_the_background])
def test_a_refusal_of_the_engine_s_wrapper_has_its_status(how: Callable[[RequestRecord], None]) -> None:
    app = Streaming(how)
    response = ask(app)
    assert (response.status, response.headers["retry-after"]) == (429, "3")
    assert (response.error["code"], app.status_when_asked) == ("server_overloaded", [0])


def test_a_failure_before_anything_was_made_has_its_status() -> None:
    def fail(_: RequestRecord) -> None:
        raise RuntimeError

    response = Response()
    with pytest.raises(RuntimeError):
        call(RequestScope(OpenAIErrors(LateStart(Streaming(fail)))), scope_of(RESPONSES), response=response)
    assert (response.status, response.error["code"]) == (500, "internal_error")


def test_what_was_held_comes_in_its_order() -> None:
    response = ask(Streaming(lambda _: None))
    assert response.status == 200
    assert [message["body"] for message in response.messages[1:]] == [CREATED, DELTA, b""]


def test_an_answer_without_the_engine_comes_at_its_end() -> None:
    assert ask(Upstream(400, [b'{"error": {"message": "no input"}}'])).error["message"] == "no input"


def test_other_routes_are_not_held() -> None:
    app = Streaming(lambda _: None)
    ask(app, CHAT)
    assert app.status_when_asked == [200]
