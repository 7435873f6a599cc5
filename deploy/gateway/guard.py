"""The guard in front of a model that has none: the safe prompt and moderation, where settings, key or request ask.

What the settings force, no request switches off: ``safe_prompt: false`` takes nothing back, and routes that reach the
model with bodies of their own are closed then.
"""

from typing import Any

from deploy.gateway.asgi import App, Receive, Scope, Send
from deploy.gateway.body import replaced
from deploy.gateway.errors import INVALID_REQUEST, ApiError, Refused, answer, not_json, route_closed
from deploy.gateway.moderation import Judge, Judged, Moderation
from deploy.gateway.moderation_output import serve_moderated
from deploy.gateway.request import RequestRecord, current
from deploy.gateway.routes import GENERATING, SECOND_DOORS
from deploy.gateway.safe_prompt import add_safe_prompt
from deploy.settings import GuardSettings

FIELD = "safe_prompt"
"""Mistral's name (https://docs.mistral.ai, guardrailing) for a request's wish to be guarded; vLLM never sees it."""

_GUARDED = GENERATING | {"/v1/messages/count_tokens"}


class Guard:
    """ASGI middleware: adds the safe prompt to chats and has prompts and answers moderated.

    It comes after what reads the body. A request that nothing applies to passes untouched. Without a ``judge`` nothing
    is moderated.
    """

    def __init__(self, app: App, settings: GuardSettings, judge: Judge | None = None) -> None:
        self._app, self._settings = app, settings
        self._moderation = None if judge is None else Moderation(settings, judge)
        forced = "always" in (settings.safe_prompt, settings.moderation)
        self._closed = SECOND_DOORS if forced else set[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request under what applies to it."""
        record = current()
        if scope["type"] != "http" or record is None:
            await self._app(scope, receive, send)
            return
        if record.route in self._closed:
            await answer(route_closed(record.route).error, scope, send)
            return
        if record.body is None or record.route not in _GUARDED:
            await self._app(scope, receive, send)
            return
        try:
            judged, changed = await self._apply(record, record.body)
            if changed:
                receive = await _changed(scope, record.body, receive)
        except Refused as refused:
            await answer(refused.error, scope, send)
            return
        if judged is None or self._moderation is None:
            await self._app(scope, receive, send)
        else:
            await serve_moderated(self._app, self._moderation, judged, scope, receive, send)

    async def _apply(self, record: RequestRecord, body: dict[str, Any]) -> tuple[Judged | None, bool]:
        """Change ``body`` to what the model is to get.

        Returns what was judged, ``None`` where the request is not moderated, and whether the body changed.

        Raises:
            Refused: by the moderation, or the request's wish is malformed or cannot be met.
        """
        settings = self._settings
        changed = FIELD in body
        asked = _wish(body.pop(FIELD, None))
        wanted = asked or (record.key is not None and record.key.guard)
        judged = None
        if self._moderation and record.route in GENERATING and _applies(settings.moderation, wanted):
            judged = await self._moderation.judge_prompt(record, body)
            if self._moderation.judges_output:
                changed |= _stays_here(record.route, body)
                changed |= _comes_as_text(body)
        prompted = _applies(settings.safe_prompt, wanted)
        prompted = prompted and add_safe_prompt(record.route, body, settings.safe_prompt_text)
        if asked and judged is None and not prompted:
            raise _wrong(FIELD, "This server has no guard for such a request: leave safe_prompt out.")
        return judged, changed or prompted


def _applies(when: str, wanted: bool) -> bool:
    return when == "always" or (when == "on_request" and wanted)


def _wish(value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise _wrong(FIELD, "safe_prompt is neither true nor false.")


def _stays_here(route: str, body: dict[str, Any]) -> bool:
    """Keep vLLM from storing an answer, or making it in the background, where it is fetched later."""
    if route != "/v1/responses":
        return False
    if body.get("background"):
        raise _wrong("background", "Answers are moderated on this server, so none is made in the background.")
    body["store"] = False
    return True


def _comes_as_text(body: dict[str, Any]) -> bool:
    """Keep vLLM from sending the ids of tokens, which come before their text while a parser holds that back."""
    asked = [body.pop(field, None) for field in ("return_token_ids", "return_tokens_as_token_ids")]
    return asked != [None, None]


def _wrong(param: str, message: str) -> Refused:
    return Refused(ApiError(400, INVALID_REQUEST, None, message, param))


async def _changed(scope: Scope, body: dict[str, Any], receive: Receive) -> Receive:
    # The client's body, in whose place the changed one comes.
    await receive()
    try:
        return replaced(scope, body, receive)
    except RecursionError:
        raise not_json() from None
