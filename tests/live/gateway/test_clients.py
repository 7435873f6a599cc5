"""Prevents: an error that the clients of OpenAI and Anthropic do not recognise, or try again too early."""

import time
from collections.abc import Callable
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest

from tests.live.gateway.guarded import QUESTION, Guarded

pytestmark = pytest.mark.live
CHAT: Any = {"model": "demo", "messages": QUESTION, "max_tokens": 1}
LARGE: Any = CHAT | {"messages": [{"role": "user", "content": "x" * 5_000_000}]}
TOO_LONG = "word " * 9000
"""More tokens than the model's context holds."""
UNKNOWN_KEY = "ms-00000000-wrong"


def ask_openai(guarded: Guarded, key: str | None = None, request: Any = CHAT, **options: Any) -> Any:
    return guarded.openai(key, **options).chat.completions.create(**request)


def ask_anthropic(guarded: Guarded, key: str | None = None, request: Any = CHAT, **options: Any) -> Any:
    return guarded.anthropic(key, **options).messages.create(**request)


def test_openais_client_raises_its_typed_exceptions(guarded: Guarded) -> None:
    with pytest.raises(openai.AuthenticationError) as unknown:
        ask_openai(guarded, UNKNOWN_KEY)
    assert (unknown.value.code, unknown.value.type) == ("invalid_api_key", "invalid_request_error")
    assert unknown.value.response.headers["www-authenticate"] == 'Bearer realm="mistral-serve"'
    assert unknown.value.request_id
    with pytest.raises(openai.PermissionDeniedError) as forbidden:
        ask_openai(guarded, guarded.restricted)
    assert (forbidden.value.code, forbidden.value.param) == ("model_not_allowed", "model")
    with pytest.raises(openai.NotFoundError) as missing:
        guarded.openai().embeddings.create(model="demo", input="Hi")
    assert missing.value.code == "not_found"
    with pytest.raises(openai.NotFoundError) as model:
        ask_openai(guarded, request=CHAT | {"model": "gpt-4"})
    assert (model.value.code, model.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as wrong:
        ask_openai(guarded, request=CHAT | {"max_tokens": 100_000})
    assert wrong.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as many:
        ask_openai(guarded, request=CHAT | {"n": 9})
    assert (many.value.code, many.value.param) == ("integer_above_max_value", "n")
    with pytest.raises(openai.APIStatusError) as large:
        ask_openai(guarded, request=LARGE)
    assert (large.value.status_code, large.value.code) == (413, "request_too_large")


def test_anthropics_client_works_with_its_own_header_and_raises_its_typed_exceptions(guarded: Guarded) -> None:
    request: Any = CHAT | {"max_tokens": 20, "extra_body": {"temperature": 0}}
    assert "Paris" in ask_anthropic(guarded, request=request).content[0].text
    with pytest.raises(anthropic.AuthenticationError):
        ask_anthropic(guarded, "wrong")
    with pytest.raises(anthropic.PermissionDeniedError):
        ask_anthropic(guarded, guarded.restricted)
    with pytest.raises(anthropic.NotFoundError):
        ask_anthropic(guarded, request=CHAT | {"model": "gpt-4"})
    with pytest.raises(anthropic.BadRequestError):
        ask_anthropic(guarded, request=CHAT | {"max_tokens": 20_000})
    with pytest.raises(anthropic.APIStatusError) as large:
        ask_anthropic(guarded, request=LARGE)
    assert large.value.status_code == 413


@pytest.mark.parametrize(
    ("ask", "expected"), [(ask_openai, openai.RateLimitError), (ask_anthropic, anthropic.RateLimitError)]
)
def test_a_used_up_quota_is_a_rate_limit_error(
    guarded: Guarded, ask: Callable[..., Any], expected: type[Exception]
) -> None:
    key = guarded.new_key("--name", f"once-{ask.__name__}", "--requests-per-minute", "1")
    # A replica looks at the key file at most once a second.
    time.sleep(1.1)
    ask(guarded, key)
    with pytest.raises(expected) as refused:
        ask(guarded, key)
    headers = refused.value.response.headers  # type: ignore[attr-defined]
    assert 1 <= int(headers["retry-after"]) <= 60
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("1", "0")


@pytest.mark.parametrize(
    ("ask", "expected"), [(ask_openai, openai.InternalServerError), (ask_anthropic, anthropic.InternalServerError)]
)
def test_a_stopping_server_is_a_server_error(
    guarded: Guarded, ask: Callable[..., Any], expected: type[Exception]
) -> None:
    with guarded.refusing(), pytest.raises(expected) as refused:
        ask(guarded)
    response = refused.value.response  # type: ignore[attr-defined]
    assert (response.status_code, response.json()["error"]["code"]) == (503, "stopping")
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(("ask", "http_client"), [(ask_openai, httpx.Client), (ask_anthropic, httpx2.Client)])
def test_clients_wait_as_long_as_they_are_told_before_they_try_again(
    guarded: Guarded, ask: Callable[..., Any], http_client: Any
) -> None:
    answers: list[tuple[int, str | None, float]] = []
    with guarded.refusing() as accept_again:

        def look(response: httpx.Response | httpx2.Response) -> None:
            answers.append((response.status_code, response.headers.get("retry-after"), time.monotonic()))
            accept_again()

        client = http_client(event_hooks={"response": [look]})
        ask(guarded, max_retries=1, http_client=client)
    (first, told, refused_at), (second, _, answered_at) = answers
    assert (first, told, second) == (503, "5", 200)
    # Without having been told they would try again within a second.
    assert answered_at - refused_at >= 5


@pytest.mark.parametrize(
    ("route", "content"),
    [
        ("/v1/responses", {"input": TOO_LONG}),
        ("/v1/completions", {"prompt": TOO_LONG}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": TOO_LONG}]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": TOO_LONG}], "max_tokens": 1}),
    ],
)
def test_a_prompt_that_is_too_long_is_refused_before_a_stream_begins(
    guarded: Guarded, route: str, content: dict[str, Any]
) -> None:
    answer = guarded.post(route, {"model": "demo", "stream": True, **content})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["type"] == "invalid_request_error"
