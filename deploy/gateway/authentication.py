"""Lets in whoever brings a valid API key, and nobody else."""

from datetime import UTC, datetime

from deploy.gateway.asgi import App, Receive, Scope, Send, header, path_of
from deploy.gateway.errors import Refused, answer, no_key, route_closed, route_not_found
from deploy.gateway.key_file import Key
from deploy.gateway.key_store import KeyStore
from deploy.gateway.request import current
from deploy.gateway.routes import METRICS, Rule, rule_of

_CREDENTIALS = {b"authorization", b"x-api-key"}
_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1


class KeysRequired:
    """ASGI middleware: every request needs a key, but for the open routes; the app behind never sees the key."""

    def __init__(self, app: App, keys: KeyStore, *, open_metrics: bool) -> None:
        self._app, self._keys, self._open_metrics = app, keys, open_metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with 401, 403 or 404."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        if scope["type"] == "http":
            try:
                await self._admit(scope)
            except Refused as refused:
                await answer(refused.error, scope, send)
                return
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope) -> None:
        path = path_of(scope)
        rule = Rule.OPEN if path == METRICS and self._open_metrics else rule_of(path)
        if rule is Rule.CLOSED:
            raise route_closed(path)
        if rule is not Rule.OPEN:
            await self._keys.refresh()
            key = self._key(scope, path)
            if rule is None:
                raise route_not_found()
            if (record := current()) is not None:
                record.key = key
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in _CREDENTIALS]

    def _key(self, scope: Scope, path: str) -> Key:
        token = _token(scope, path)
        if not token:
            raise no_key("No API key was given: send it as `Authorization: Bearer KEY`.")
        key = self._keys.find(token)
        if key is None:
            raise no_key("This API key is not known.")
        if key.disabled:
            raise no_key("This API key is disabled.")
        if key.expires is not None and datetime.now(UTC) >= key.expires:
            raise no_key("This API key has expired.")
        return key


def _token(scope: Scope, path: str) -> bytes | None:
    """The key as OpenAI's clients send it or, on Anthropic's endpoints, as theirs do."""
    authorization = header(scope, b"authorization")
    if authorization is None:
        return header(scope, b"x-api-key") if path.startswith("/v1/messages") else None
    scheme, _, token = authorization.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else None
