"""Prevents: one request that takes the whole server, and a limit that says it holds and does not."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from deploy.gateway.asgi import App, Receive, Scope, Send
from deploy.gateway.errors import ApiError, Refused
from deploy.gateway.limits import HeaderLimit, check_body, check_prompt
from deploy.gateway.per_key import RequestsPerKey
from deploy.gateway.request import Observer, RequestRecord, current
from deploy.gateway.request_scope import RequestScope
from deploy.gateway.stack import Gateway
from deploy.gateway.time_limit import TimeLimit
from deploy.settings import LimitSettings, Settings
from tests.unit.asgi_calls import Response, Upstream, call, scope_of
from tests.unit.key_gate import CHAT
from tests.unit.records import key

COMPLETIONS, RESPONSES, MESSAGES = "/v1/completions", "/v1/responses", "/v1/messages"
LIMITS = LimitSettings(messages=2, prompts=2, n=3, max_tokens=16, prompt_tokens=5)


def refusal(body: dict[str, Any], settings: LimitSettings = LIMITS) -> ApiError:
    with pytest.raises(Refused) as refused:
        check_body(body, settings)
    return refused.value.error


def refusals(key_name: str = "") -> float:
    labels = {"key": key_name, "reason": "limit"}
    return REGISTRY.get_sample_value("mistral_serve_rejections_total", labels) or 0


@pytest.mark.parametrize(
    ("body", "param", "code", "message"),
    [
        (
            {"messages": [{}] * 3},
            "messages",
            "array_above_max_length",
            "`messages` asks for 3 messages, and at most 2 are allowed.",
        ),
        (
            {"input": [{}] * 3},
            "input",
            "array_above_max_length",
            "`input` asks for 3 messages, and at most 2 are allowed.",
        ),
        (
            {"prompt": ["a", "b", "c"]},
            "prompt",
            "array_above_max_length",
            "`prompt` asks for 3 prompts, and at most 2 are allowed.",
        ),
        (
            {"prompt": [[1], [2], [3]]},
            "prompt",
            "array_above_max_length",
            "`prompt` asks for 3 prompts, and at most 2 are allowed.",
        ),
        (
            {"prompt": "a", "prompt_embeds": ["x", "y"]},
            "prompt",
            "array_above_max_length",
            "`prompt` asks for 3 prompts, and at most 2 are allowed.",
        ),
        ({"n": 4}, "n", "integer_above_max_value", "`n` asks for 4 completions, and at most 3 are allowed."),
        ({"n": "4"}, "n", "integer_above_max_value", "`n` asks for 4 completions, and at most 3 are allowed."),
        (
            {"best_of": 4.0},
            "best_of",
            "integer_above_max_value",
            "`best_of` asks for 4 completions, and at most 3 are allowed.",
        ),
        (
            {"max_tokens": 17},
            "max_tokens",
            "integer_above_max_value",
            "`max_tokens` asks for 17 tokens, and at most 16 are allowed.",
        ),
        (
            {"max_completion_tokens": 17},
            "max_completion_tokens",
            "integer_above_max_value",
            "`max_completion_tokens` asks for 17 tokens, and at most 16 are allowed.",
        ),
        (
            {"max_output_tokens": 17},
            "max_output_tokens",
            "integer_above_max_value",
            "`max_output_tokens` asks for 17 tokens, and at most 16 are allowed.",
        ),
        (
            {"use_beam_search": "true"},
            "max_tokens",
            "integer_above_max_value",
            "A beam search needs max_tokens: give at most 16.",
        ),
    ],
)
def test_what_asks_for_too_much_is_refused(body: dict[str, Any], param: str, code: str, message: str) -> None:
    assert refusal(body) == ApiError(400, "invalid_request_error", code, message, param)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": [{}] * 2, "n": 3, "max_tokens": 16},
        {"prompt": [1, 2, 3, 4]},
        {"prompt": ["a", "b"]},
        {"prompt": "a long text"},
        {"prompt": []},
        {"input": "a text"},
        {"use_beam_search": False},
        {"use_beam_search": True, "max_tokens": 16},
        # What is no number is vLLM's to refuse, with its own words.
        {"n": "many", "max_tokens": [], "messages": 7, "use_beam_search": {}},
    ],
)
def test_what_stays_within_the_limits_passes(body: dict[str, Any]) -> None:
    check_body(body, LIMITS)


def test_without_a_limit_of_tokens_the_model_s_length_is_the_limit() -> None:
    check_body({"max_tokens": 10**9, "use_beam_search": True}, LimitSettings())
    check_prompt(10**9, LimitSettings())


def test_a_prompt_that_is_too_long_is_refused() -> None:
    check_prompt(5, LIMITS)
    with pytest.raises(Refused) as refused:
        check_prompt(6, LIMITS)
    message = "The prompt has 6 tokens, and at most 5 are allowed."
    assert refused.value.error == ApiError(400, "invalid_request_error", "context_length_exceeded", message)


def test_headers_are_measured_together() -> None:
    app = RequestScope(HeaderLimit(Upstream(), 1024))
    name = "x-filler"
    # RequestScope adds its own x-request-id, a UUID.
    room = 1024 - len(name) - len("x-request-id") - 36
    before = refusals()
    assert call(app, scope_of("/health", {name: "x" * room})).status == 200
    response = call(app, scope_of("/health", {name: "x" * (room + 1)}))
    assert response.status == 431
    assert response.error == {
        "message": "The request's headers are larger than 1024 bytes.",
        "type": "invalid_request_error",
        "param": None,
        "code": "headers_too_large",
    }
    assert refusals() - before == 1


def keyed(app: App, name: str) -> App:
    async def with_key(scope: Scope, receive: Receive, send: Send) -> None:
        record = current()
        assert record is not None
        record.key = key(name)
        await app(scope, receive, send)

    return RequestScope(with_key)


def run(app: App, path: str = CHAT, method: str = "POST") -> Response:
    return call(app, scope_of(path, method=method), [b"{}"])


class Nested:
    """An app that makes further requests of ``inner`` while it serves one."""

    def __init__(self) -> None:
        self.inner: list[App] = []
        self.answers: list[Response] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.inner:
            app = self.inner.pop()
            self.answers.append(await asyncio.to_thread(run, app))
        await Upstream()(scope, receive, send)


def test_one_key_runs_no_more_requests_at_once_than_it_may() -> None:
    nested = Nested()
    limit = RequestsPerKey(nested, 1)
    nested.inner = [keyed(limit, "team")]
    before = refusals("team")
    assert run(keyed(limit, "team")).status == 200
    (refused,) = nested.answers
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert refused.error == {
        "message": "This key already has 1 requests running here, as many as it may have. Send the request again when "
        "one of them has ended.",
        "type": "rate_limit_error",
        "param": None,
        "code": "too_many_requests_at_once",
    }
    assert refusals("team") - before == 1
    # The place is free again.
    assert run(keyed(limit, "team")).status == 200


def test_keys_do_not_take_each_other_s_places() -> None:
    nested = Nested()
    limit = RequestsPerKey(nested, 1)
    nested.inner = [keyed(limit, "other")]
    assert run(keyed(limit, "team")).status == 200
    assert [answer.status for answer in nested.answers] == [200]


def test_a_place_is_given_back_after_a_failure() -> None:
    limit = RequestsPerKey(Upstream(fails=RuntimeError()), 1)
    for _ in range(3):
        response = Response()
        with pytest.raises(RuntimeError):
            call(keyed(limit, "team"), scope_of(CHAT), response=response)
        assert response.status == 500


class Slow:
    """An app as vLLM's: works until its client goes away. ``begins``: with these parts of a stream."""

    def __init__(self, *begins: bytes, content_type: str = "text/event-stream") -> None:
        self.begins, self.content_type = begins, content_type
        self.told = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body", False):
            pass
        if self.begins:
            headers = [(b"content-type", self.content_type.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in self.begins:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        self.told = (await receive())["type"] == "http.disconnect"
        if not self.begins:
            # As FastAPI answers for a handler that returned nothing.
            await Upstream(chunks=[b"null"])(scope, receive, send)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.gateway.time_limit.GRACE_S", 60.0)


def timed(app: App, path: str = CHAT, body: bytes | None = b"{}", observers: Sequence[Observer] = ()) -> Response:
    """The response to a client that stays until the end; ``body`` of ``None`` never comes to its end."""
    response = Response()

    async def serve() -> None:
        parts = [{"type": "http.request", "body": body or b"", "more_body": body is None}]

        async def receive() -> Any:
            return parts.pop() if parts else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            response.messages.append(message)

        await RequestScope(TimeLimit(app, 0.05), observers)(scope_of(path), receive, send)

    asyncio.run(serve())
    return response


def test_a_request_that_takes_too_long_is_answered_and_ended() -> None:
    app, before = Slow(), refusals()
    seen: list[RequestRecord] = []
    response = timed(app, observers=(seen.append,))
    assert (app.told, seen[-1].failed) == (True, False)
    # The clients would send it again, to take as long.
    assert (response.status, response.headers["x-should-retry"]) == (504, "false")
    assert response.error == {
        "message": "The request took longer than the 0.05 s that one may take.",
        "type": "server_error",
        "param": None,
        "code": "timeout",
    }
    assert refusals() - before == 1


def test_a_request_that_does_not_arrive_is_answered_and_ended() -> None:
    response = timed(Slow(), body=None)
    assert (response.status, response.error["message"]) == (408, "The request did not arrive within 0.05 s.")
    assert "x-should-retry" not in response.headers


@pytest.mark.parametrize(
    ("path", "last"),
    [
        (CHAT, b'data: {"error": ERROR}\n\ndata: [DONE]\n\n'),
        (COMPLETIONS, b'data: {"error": ERROR}\n\ndata: [DONE]\n\n'),
        (MESSAGES, b'event: error\ndata: {"type": "error", "error": ERROR}\n\n'),
        (
            RESPONSES,
            b'event: error\ndata: {"type": "error", "code": "timeout", "message": "The request took longer than the '
            b'0.05 s that one may take.", "param": null}\n\n',
        ),
    ],
)
def test_a_stream_that_takes_too_long_ends_with_an_error_event(path: str, last: bytes) -> None:
    app = Slow(b"data: 1\n\n", b"data: 2\n\n")
    error = {"message": "The request took longer than the 0.05 s that one may take.", "type": "server_error"}
    error |= {"param": None, "code": "timeout"}  # type: ignore[dict-item]
    seen: list[RequestRecord] = []
    response = timed(app, path, observers=(seen.append,))
    assert (app.told, seen[-1].failed) == (True, True)
    assert (response.status, response.body) == (
        200,
        b"data: 1\n\ndata: 2\n\n" + last.replace(b"ERROR", json.dumps(error).encode()),
    )
    assert not response.messages[-1].get("more_body", False)


def test_an_answer_that_has_begun_and_is_no_stream_is_broken_off() -> None:
    response = timed(Slow(b"{", content_type="application/json"))
    assert response.body == b"{"
    assert response.messages[-1]["more_body"] is True


def test_an_app_that_does_not_listen_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def deaf(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("deploy.gateway.time_limit.GRACE_S", 0.01)
    assert timed(deaf, body=None).status == 408


def test_a_failure_in_time_stays_a_failure() -> None:
    app = RequestScope(TimeLimit(Upstream(fails=TimeoutError()), 60))
    response = Response()
    with pytest.raises(TimeoutError):
        call(app, scope_of(CHAT), response=response)
    assert response.status == 500


def test_an_answer_in_time_passes_message_by_message() -> None:
    direct = call(Upstream(chunks=[b"1", b"2"]), scope_of(CHAT))
    assert call(TimeLimit(Upstream(chunks=[b"1", b"2"]), 60), scope_of(CHAT)).messages == direct.messages


@pytest.mark.parametrize(
    ("limits", "statuses"),
    [({"n": 1, "body_bytes": 1024}, [400, 413, 431]), ({"enabled": False, "n": 1, "body_bytes": 1024}, [200] * 3)],
)
def test_the_settings_turn_the_limits_on_and_off(limits: dict[str, Any], statuses: list[int], tmp_path: Path) -> None:
    app = Gateway(Settings.model_validate({"limits": limits, "log": {"access": False}})).around(Upstream(), "demo")
    bodies = [b'{"n": 2}', b'{"user": "%s"}' % (b"x" * 1024)]
    answers = [call(app, scope_of(CHAT), [body]).status for body in bodies]
    assert [*answers, call(app, scope_of(CHAT, {"x": "x" * 8192}), [b"{}"]).status] == statuses
