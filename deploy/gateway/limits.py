"""Holds each request to what one request may ask for: the size of its headers, and the numbers in its body.

``deploy.gateway.body`` bounds the body's size, ``deploy.gateway.time_limit`` the time, ``deploy.gateway.per_key`` how
many requests of one key run at once. The codes of errors are OpenAI's
(https://platform.openai.com/docs/guides/error-codes).
"""

from typing import Any

from pydantic import TypeAdapter, ValidationError

from deploy.gateway.asgi import App, Receive, Scope, Send
from deploy.gateway.errors import INVALID_REQUEST, ApiError, Refused, answer
from deploy.gateway.request import RequestRecord, current
from deploy.metrics import REJECTIONS
from deploy.settings import LimitSettings

TOO_LONG, TOO_LARGE = "array_above_max_length", "integer_above_max_value"
TOO_MANY_TOKENS = "context_length_exceeded"
LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""Fields that say how long a completion may become, over all routes."""

_INTEGER, _BOOLEAN = TypeAdapter(int), TypeAdapter(bool)


class HeaderLimit:
    """ASGI middleware: answers 431 when names and values of a request's headers have more than ``limit`` bytes."""

    def __init__(self, app: App, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] == "http" and sum(len(name) + len(value) for name, value in scope["headers"]) > self._limit:
            count_refusal(current())
            message = f"The request's headers are larger than {self._limit} bytes."
            await answer(ApiError(431, INVALID_REQUEST, "headers_too_large", message), scope, send)
            return
        await self._app(scope, receive, send)


class BodyLimits:
    """ASGI middleware: answers 400 when the body asks for more than ``settings`` allow; ``ReadBody`` comes before."""

    def __init__(self, app: App, settings: LimitSettings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        record = current()
        if record is not None and record.body is not None:
            try:
                check_body(record.body, self._settings)
            except Refused as refused:
                count_refusal(record)
                await answer(refused.error, scope, send)
                return
        await self._app(scope, receive, send)


def count_refusal(record: RequestRecord | None, reason: str = "limit") -> None:
    """Count a request that a limit refused, or what else ``reason`` names."""
    REJECTIONS.labels(key="" if record is None else record.key_name, reason=reason).inc()


def check_body(body: dict[str, Any], settings: LimitSettings) -> None:
    """Let pass what asks for no more than ``settings`` allow, and what is no number: that is vLLM's to refuse.

    Raises:
        Refused: 400, with the field as ``param``.
    """
    for field in ("messages", "input"):
        _check(field, _length(body.get(field)), settings.messages, TOO_LONG, "messages")
    _check("prompt", prompts_in(body), settings.prompts, TOO_LONG, "prompts")
    for field in ("n", "best_of"):
        _check(field, number_in(body.get(field)), settings.n, TOO_LARGE, "completions")
    if settings.max_tokens is None:
        return
    for field in LENGTHS:
        _check(field, number_in(body.get(field)), settings.max_tokens, TOO_LARGE, "tokens")
    if _is_true(body.get("use_beam_search")) and all(body.get(field) is None for field in LENGTHS):
        # vLLM counts the steps of a beam search itself, where ``deploy.metered_engine`` cannot end them.
        message = f"A beam search needs max_tokens: give at most {settings.max_tokens}."
        raise Refused(ApiError(400, INVALID_REQUEST, TOO_LARGE, message, "max_tokens"))


def check_prompt(tokens: int, settings: LimitSettings) -> None:
    """Let pass a prompt of so many tokens.

    Raises:
        Refused: 400.
    """
    if settings.prompt_tokens is not None and tokens > settings.prompt_tokens:
        message = f"The prompt has {tokens} tokens, and at most {settings.prompt_tokens} are allowed."
        raise Refused(ApiError(400, INVALID_REQUEST, TOO_MANY_TOKENS, message))


def _check(field: str, asked: int, most: int, code: str, unit: str) -> None:
    if asked > most:
        message = f"`{field}` asks for {asked} {unit}, and at most {most} are allowed."
        raise Refused(ApiError(400, INVALID_REQUEST, code, message, field))


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0


def prompts_in(body: dict[str, Any]) -> int:
    """Prompts in a completion request: a text, a list of token ids, or a list of either; besides, embeddings."""
    prompt, embeddings = body.get("prompt"), _length(body.get("prompt_embeds"))
    if not isinstance(prompt, list):
        return embeddings + (prompt is not None)
    return embeddings + (1 if prompt and isinstance(prompt[0], int) else len(prompt))


def number_in(value: Any) -> int:
    """``value`` as vLLM reads it, which takes the text ``"3"`` for 3; zero for what is no number."""
    try:
        return 0 if value is None else _INTEGER.validate_python(value)
    except ValidationError:
        return 0


def _is_true(value: Any) -> bool:
    try:
        return value is not None and _BOOLEAN.validate_python(value)
    except ValidationError:
        return False
