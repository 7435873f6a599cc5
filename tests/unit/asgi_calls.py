"""Calls an ASGI app without a server: one request in, the whole response out."""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from deploy.gateway.asgi import App, Message, Receive, Scope, Send


@dataclass
class Response:
    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def error(self) -> dict[str, Any]:
        assert self.headers["content-length"] == str(len(self.body))
        assert self.headers["content-type"] == "application/json"
        return dict(json.loads(self.body)["error"])


def scope_of(path: str, headers: dict[str, str] | None = None, method: str = "POST", root_path: str = "") -> Scope:
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()]
    return {"type": "http", "method": method, "path": root_path + path, "root_path": root_path, "headers": pairs}


def call(app: App, scope: Scope, chunks: Iterable[bytes] = (b"",), response: Response | None = None) -> Response:
    """The response to a request whose body comes in ``chunks``; after them the client hangs up.

    ``response`` collects it, for tests that look at it while it comes, or after an exception.
    """
    response = Response() if response is None else response
    parts = list(chunks)
    incoming: list[Message] = [
        {"type": "http.request", "body": part, "more_body": index < len(parts) - 1} for index, part in enumerate(parts)
    ]

    async def receive() -> Message:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        response.messages.append(message)

    async def run() -> None:
        await app(scope, receive, send)

    asyncio.run(run())
    return response


class Upstream:
    """The app behind a middleware: answers as told, and remembers what reached it."""

    def __init__(
        self,
        status: int = 200,
        chunks: Iterable[bytes] = (b"{}",),
        headers: dict[str, str] | None = None,
        fails: Exception | None = None,
    ) -> None:
        self.status, self.chunks, self.headers, self.fails = status, list(chunks), headers or {}, fails
        self.scopes: list[Scope] = []
        self.received: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if scope["type"] != "http":
            return
        while True:
            self.received.append(await receive())
            if not self.received[-1].get("more_body", False):
                break
        if self.fails is not None:
            raise self.fails
        headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for chunk in self.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.received)
