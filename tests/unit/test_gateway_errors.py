"""Prevents: an error that OpenAI's clients cannot read, one that tells about our inside, and a stream held back."""

import contextlib
import json
from typing import Any

import pytest

from deploy.gateway.asgi import Receive, Scope, Send
from deploy.gateway.error_bodies import LONGEST_BODY, OpenAIErrors, translate
from deploy.gateway.errors import RATE_LIMIT, ApiError, of_status
from deploy.gateway.observed import broken
from deploy.gateway.request import RequestRecord, current
from deploy.gateway.request_scope import RequestScope
from tests.unit.asgi_calls import Response, Upstream, call, scope_of

DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
"""What vLLM's ``EngineDeadError`` says (``v1/engine/exceptions.py``)."""
SECRET = "ValueError at /opt/app/engine.py, line 7: prompt was 'hello'"


def through(upstream: Upstream, path: str = "/v1/completions") -> Response:
    return call(OpenAIErrors(upstream), scope_of(path))


def vllm_error(message: str, kind: str, code: int, param: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


def call_dead_engine(upstream: Upstream, response: Response, *, asked: bool = False) -> None:
    """Send a request with a body to ``upstream``, whose engine has died; ``asked``: the engine had been asked."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        record = current()
        assert record is not None
        record.body, record.engine_asked = {"prompt": "hello"}, asked
        await OpenAIErrors(upstream, lambda: True)(scope, receive, send)

    call(RequestScope(app), scope_of("/v1/completions"), response=response)


def streamed(path: str, chunks: list[bytes]) -> tuple[Response, RequestRecord]:
    """What the client gets of an event stream, and the request's record."""
    seen: list[RequestRecord] = []
    upstream = Upstream(200, chunks, {"content-type": "text/event-stream; charset=utf-8"})
    response = call(RequestScope(OpenAIErrors(upstream), (seen.append,)), scope_of(path))
    return response, seen[-1]


class Refusing:
    """An app with a part inside that refuses; the app itself answers with ``status``, or ends with an exception."""

    def __init__(self, status: int | None) -> None:
        self.status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = current()
        assert record is not None
        record.refused = ApiError(429, RATE_LIMIT, "server_overloaded", "Too much to do.", retry_after=7)
        if self.status is None:
            raise RuntimeError("internal")
        await Upstream(self.status, [b'{"error": {"message": "something else"}}'])(scope, receive, send)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            404,
            vllm_error("The model `gpt-4` does not exist.", "NotFoundError", 404, "model"),
            ("The model `gpt-4` does not exist.", "invalid_request_error", "model", "model_not_found"),
        ),
        (
            400,
            vllm_error("max_tokens is too large", "BadRequestError", 400, "max_tokens"),
            ("max_tokens is too large", "invalid_request_error", "max_tokens", None),
        ),
        (
            400,
            b'{"error": {"message": "Too long.", "type": "x", "param": null, "code": "context_length_exceeded"}}',
            ("Too long.", "invalid_request_error", None, "context_length_exceeded"),
        ),
        (
            404,
            b'{"detail":"Not Found"}',
            ("There is nothing at this path.", "invalid_request_error", None, "not_found"),
        ),
        (
            405,
            b'{"detail":"Method Not Allowed"}',
            ("This path does not take this method.", "invalid_request_error", None, "method_not_allowed"),
        ),
        (400, b'{"detail":"There is no such id."}', ("There is no such id.", "invalid_request_error", None, None)),
        (
            422,
            b'{"detail":[{"loc":["body","model"],"msg":"Field required"},{"loc":["body","n"],"msg":"too small"}]}',
            ("body.model: Field required; body.n: too small", "invalid_request_error", None, None),
        ),
        (
            401,
            b'{"error":"Unauthorized"}',
            ("The API key is missing or not valid.", "invalid_request_error", None, "invalid_api_key"),
        ),
        (
            429,
            b"slow down",
            ("Too many requests. Send it again later.", "rate_limit_error", None, "rate_limit_exceeded"),
        ),
        (
            400,
            vllm_error(
                "2 validation errors:\n  {'type': 'int_parsing', 'loc': ('body', 'n', 'list[int]', 0), 'msg': \"Input "
                "should be 'a' or 'b'\", 'input': 'SECRET', 'ctx': {'error': ValueError()}}\n  {'type': 'x'}",
                "Bad Request",
                400,
                "body.n.0",
            ),
            ("n.0: Input should be 'a' or 'b' (1 more like it)", "invalid_request_error", "n.0", None),
        ),
        (
            400,
            vllm_error("1 validation error:\n  {'msg': 'Value error, n must be 1', 'input': 'SECRET'}", "x", 400),
            ("n must be 1", "invalid_request_error", None, None),
        ),
        (
            400,
            vllm_error(
                "2 validation errors for Iterator\n0.Part.text\n  Field required [type=missing, input_value='SECRET']\n"
                "    For further information visit https://errors.pydantic.dev/2/v/missing\n0.Part.type\n  x",
                "Bad Request",
                400,
            ),
            ("Field required (1 more like it)", "invalid_request_error", None, None),
        ),
        (
            400,
            vllm_error("1 validation error:\n  {'input': 'SECRET'}", "x", 400, "body.n"),
            ("The request is malformed.", "invalid_request_error", "n", None),
        ),
        (400, b"[]", ("The request is malformed.", "invalid_request_error", None, None)),
        (400, b"\xff\xfe", ("The request is malformed.", "invalid_request_error", None, None)),
        (418, b"", ("The request is malformed.", "invalid_request_error", None, None)),
        (400, b'{"detail":[1, {}]}', (": not valid", "invalid_request_error", None, None)),
    ],
)
def test_an_error_of_a_client_becomes_openais_object(
    status: int, body: bytes, expected: tuple[str, str, str | None, str | None]
) -> None:
    response = through(Upstream(status, [body]))
    error = response.error
    assert response.status == status
    assert (error["message"], error["type"], error["param"], error["code"]) == expected


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 599])
@pytest.mark.parametrize("body", [vllm_error(SECRET, "InternalServerError", 500), SECRET.encode(), b""])
def test_nothing_of_an_internal_error_reaches_the_client(status: int, body: bytes) -> None:
    response = through(Upstream(status, [body]))
    assert response.status == status
    assert response.error["type"] == "server_error"
    assert [word for word in ("Error", "/opt", "line 7", "hello") if word.encode() in response.body] == []


def test_the_headers_that_still_hold_are_kept() -> None:
    headers = {"retry-after": "3", "x-request-id": "a", "content-type": "text/plain", "content-encoding": "gzip"}
    response = through(Upstream(503, [b"no"], headers | {"content-length": "2"}))
    assert response.messages[0]["headers"] == [
        (b"retry-after", b"3"),
        (b"x-request-id", b"a"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(response.body)).encode()),
    ]


def test_a_replica_that_cannot_take_a_request_says_when_to_come_again() -> None:
    assert through(Upstream(503)).headers["retry-after"] == "5"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_anthropics_clients_find_the_type_that_they_look_for(path: str) -> None:
    body = json.loads(through(Upstream(400, [b"{}"]), path).body)
    assert list(body) == ["type", "error"]
    assert body["type"] == "error"


def test_other_clients_get_nothing_beside_the_error() -> None:
    assert list(json.loads(through(Upstream(400)).body)) == ["error"]


@pytest.mark.parametrize("status", [200, 204, 302])
def test_what_is_no_error_passes_message_by_message(status: int) -> None:
    chunks = [b"data: 1\n\n", b'data: {"error": {}}\n\n']
    direct = call(Upstream(status, chunks, {"a": "b"}), scope_of("/v1/completions"))
    assert through(Upstream(status, chunks, {"a": "b"})).messages == direct.messages


def test_a_chunk_of_a_stream_is_passed_on_before_the_next_one_exists() -> None:
    sent: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        sent.append(len(response.messages))
        await send({"type": "http.response.body", "body": b"2"})

    response = Response()
    call(OpenAIErrors(app), scope_of("/"), response=response)
    assert sent == [2]


def test_an_error_too_long_to_read_is_answered_before_it_ends() -> None:
    chunk = b"x" * 1024
    response = through(Upstream(400, [chunk] * (LONGEST_BODY // 1024 + 50)))
    assert response.error["message"] == "The request is malformed."
    assert len(response.messages) == 2


def test_an_exception_is_answered_with_500_and_raised_again() -> None:
    upstream = Upstream(fails=RuntimeError(SECRET))
    response = Response()
    with pytest.raises(RuntimeError):
        call(OpenAIErrors(upstream), scope_of("/"), response=response)
    assert (response.status, response.error["code"]) == (500, "internal_error")
    assert b"prompt" not in response.body


@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_error_left_in_the_record_is_answered_in_place_of_the_apps(status: int) -> None:
    refusing = Refusing(status)
    response = call(RequestScope(OpenAIErrors(refusing)), scope_of("/v1/chat/completions"))
    assert (response.status, response.error["code"], response.headers["retry-after"]) == (429, "server_overloaded", "7")


def test_an_exception_after_a_refusal_is_answered_with_the_refusal() -> None:
    response = call(RequestScope(OpenAIErrors(Refusing(None))), scope_of("/v1/chat/completions"))
    assert (response.status, response.error["code"]) == (429, "server_overloaded")


@pytest.mark.parametrize(("asked", "status"), [(False, 400), (True, 500)])
@pytest.mark.parametrize("fails", [None, RuntimeError(SECRET)])
def test_a_failure_before_the_engine_is_asked_is_the_request_s_own(
    asked: bool, status: int, fails: Exception | None
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        record = current()
        assert record is not None
        record.body, record.engine_asked = {"structured_outputs": 7}, asked
        await OpenAIErrors(Upstream(500, [SECRET.encode()], fails=fails))(scope, receive, send)

    response = Response()
    raises = fails is not None and asked
    with pytest.raises(RuntimeError) if raises else contextlib.nullcontext():
        call(RequestScope(app), scope_of("/v1/completions"), response=response)
    assert response.status == status
    if status == 400:
        assert response.error["message"] == "The server cannot read this request: a field has a form that none has."
    assert b"engine.py" not in response.body


@pytest.mark.parametrize("asked", [False, True])
def test_a_dead_engine_is_no_fault_of_the_request_and_another_replica_is_to_be_asked(asked: bool) -> None:
    response = Response()
    call_dead_engine(Upstream(500, [vllm_error(DEAD, "InternalServerError", 500)]), response, asked=asked)
    assert (response.status, response.headers["retry-after"]) == (503, "5")
    assert (response.error["type"], response.error["code"]) == ("server_error", "unavailable")
    assert b"EngineCore" not in response.body


def test_an_exception_of_a_dead_engine_is_raised_again() -> None:
    response = Response()
    with pytest.raises(RuntimeError):
        call_dead_engine(Upstream(fails=RuntimeError(DEAD)), response)
    assert (response.status, response.headers["retry-after"]) == (503, "5")


def test_a_mistake_is_told_even_by_a_dead_engine_s_server() -> None:
    response = Response()
    call_dead_engine(Upstream(400, [vllm_error("n is too large", "BadRequestError", 400, "n")]), response)
    assert (response.status, response.error["message"]) == (400, "n is too large")


FIRST = b'data: {"id":"cmpl-1","choices":[{"index":0,"text":"data: {\\"error\\""}]}\n\n'
FAILED = b"data: " + vllm_error(DEAD, "InternalServerError", 500) + b"\n\n"
DONE = b"data: [DONE]\n\n"
MESSAGE = b'event: message_start\ndata: {"type":"message_start","message":{"id":"1"}}\n\n'
MESSAGE_FAILED = (
    b'event: error\ndata: {"type":"error","error":{"type":"internal_error","message":"2 validation errors for '
    b"ChatCompletionStreamResponse\\nmodel\\n  Field required [type=missing, input_value={'error': {'message': "
    b"'En...am': None, 'code': 500}}, input_type=dict]\"}}\n\n"
)
"""vLLM cannot read its own chat's error where it makes a message of the chat (``entrypoints/anthropic/serving.py``)."""


@pytest.mark.parametrize(
    ("path", "chunks", "before"),
    [
        ("/v1/completions", [FIRST, FAILED, DONE], FIRST),
        ("/v1/chat/completions", [FIRST, FAILED, DONE], FIRST),
        ("/v1/chat/completions", [FIRST + FAILED + DONE], FIRST),
        ("/v1/chat/completions", [FAILED, FAILED, DONE], b""),
        ("/v1/messages", [MESSAGE, MESSAGE_FAILED], MESSAGE),
    ],
)
def test_a_failure_within_a_stream_ends_it_in_the_form_of_its_api(
    path: str, chunks: list[bytes], before: bytes
) -> None:
    response, record = streamed(path, chunks)
    assert response.body == before + of_status(500).event(path)
    assert not response.messages[-1].get("more_body", False)
    assert (record.status, record.failed, record.hung_up, broken(record)) == (200, True, False, True)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions", "/v1/messages"])
def test_an_exception_within_a_stream_ends_it_with_an_error_of_its_api(path: str) -> None:
    """vLLM's responses have no event for an error of the engine (``entrypoints/openai/responses/serving.py``)."""
    seen: list[RequestRecord] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": FIRST, "more_body": True})
        raise ValueError(DEAD)

    response = Response()
    with pytest.raises(ValueError, match="EngineCore"):
        call(RequestScope(OpenAIErrors(app), (seen.append,)), scope_of(path), response=response)
    assert response.body == FIRST + of_status(500).event(path)
    assert (seen[-1].failed, broken(seen[-1])) == (True, True)


@pytest.mark.parametrize("field", ["complete", "hung_up"])
def test_an_exception_after_the_end_is_no_failure_of_the_answer(field: str) -> None:
    record = RequestRecord("r-1", "POST", "/v1/completions")
    setattr(record, field, True)
    record.fail()
    assert not record.failed


def test_a_mistake_found_within_a_stream_is_told() -> None:
    mistake = b"data: " + vllm_error("Bad tool.", "BadRequestError", 400) + b"\n\n"
    response, record = streamed("/v1/chat/completions", [mistake, DONE])
    data, done = response.body.split(b"\n\n", 1)
    error = json.loads(data.removeprefix(b"data: "))["error"]
    assert (error["message"], error["type"], error["code"]) == ("Bad tool.", "invalid_request_error", None)
    assert (done, record.failed) == (DONE, True)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/messages", "/v1/responses"])
def test_a_stream_without_a_failure_passes_chunk_by_chunk(path: str) -> None:
    response, record = streamed(path, [FIRST, MESSAGE, DONE])
    assert [message["body"] for message in response.messages[1:]] == [FIRST, MESSAGE, DONE, b""]
    assert (record.failed, broken(record)) == (False, False)


def test_an_exception_within_a_response_adds_nothing_to_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    response = Response()
    with pytest.raises(RuntimeError):
        call(OpenAIErrors(app), scope_of("/"), response=response)
    assert [message["type"] for message in response.messages] == ["http.response.start"]


def test_other_protocols_pass() -> None:
    upstream = Upstream()
    call(OpenAIErrors(upstream), {"type": "lifespan"})
    assert upstream.scopes == [{"type": "lifespan"}]


def test_translating_our_own_error_changes_nothing() -> None:
    for status in (400, 401, 403, 404, 413, 429, 500, 503):
        error = of_status(status)
        assert translate(status, error.body("/")) == error
