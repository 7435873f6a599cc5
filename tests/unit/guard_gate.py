"""The guard in front of an app, behind what makes the record and reads the body."""

import json
from typing import Any

from deploy.gateway.asgi import App, Receive, Scope, Send
from deploy.gateway.body import ReadBody
from deploy.gateway.guard import Guard
from deploy.gateway.key_file import Key
from deploy.gateway.moderation_client import Endpoint
from deploy.gateway.request import RequestRecord, current
from deploy.gateway.request_scope import RequestScope
from deploy.settings import GuardSettings
from tests.unit.asgi_calls import Response, Upstream, call, scope_of
from tests.unit.key_gate import CHAT, LARGEST_BODY

TEXT = "Be safe."


class Gate:
    """The guard in front of an app; each request comes with ``key``."""

    def __init__(self, key: Key | None = None, app: App | None = None, **settings: Any) -> None:
        self.key, self.upstream = key, Upstream()
        chosen = GuardSettings(safe_prompt_text=TEXT, **settings)
        judge = Endpoint(chosen) if chosen.moderation != "off" else None
        self.guard: App = Guard(app or self.upstream, chosen, judge)
        self.records: list[RequestRecord] = []
        self.app = RequestScope(ReadBody(self._keyed, LARGEST_BODY), (self.records.append,))

    async def _keyed(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = current()
        assert record is not None
        record.key = self.key
        await self.guard(scope, receive, send)

    def ask(self, body: Any, path: str = CHAT) -> Response:
        return call(self.app, scope_of(path, {"content-type": "application/json"}), [json.dumps(body).encode()])

    def forwarded(self, body: Any, path: str = CHAT) -> Any:
        """What reaches the app of a request that passes."""
        assert self.ask(body, path).status == 200
        scope = self.upstream.scopes[-1]
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        assert lengths in ([], [str(len(self.upstream.body)).encode()])
        return json.loads(self.upstream.body)
