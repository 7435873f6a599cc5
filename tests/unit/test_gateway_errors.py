"""Prevents: an error that OpenAI's clients cannot read, one that tells about our inside, and a stream held back."""

import contextlib
import json
from typing import Any

import pytest

from deploy.gateway.asgi import Receive, Scope, Send
from deploy.gateway.error_bodies import LONGEST_BODY, OpenAIErrors, translate
from deploy.gateway.errors import RATE_LIMIT, ApiError, of_status
from deploy.gateway.request import current
from deploy.gateway.request_scope import RequestScope
from tests.unit.asgi_calls import Response, Upstream, call, scope_of

SECRET = "ValueError at /opt/app/engine.py, line 7: prompt was 'hello'"


def through(upstream: Upstream, path: str = "/v1/completions") -> Response:
    return call(OpenAIErrors(upstream), scope_of(path))


def vllm_error(message: str, kind: str, code: int, param: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


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
    assert response.headers == {
        "retry-after": "3",
        "x-request-id": "a",
        "content-type": "application/json",
        "content-length": str(len(response.body)),
    }


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
