"""A gate of API keys: a key file in a temporary folder, and the middlewares that hold requests to it."""

import json
from pathlib import Path
from typing import Any

from deploy.gateway.asgi import Scope
from deploy.gateway.authentication import KeysRequired
from deploy.gateway.body import ReadBody
from deploy.gateway.key_file import digest, prefix_of
from deploy.gateway.key_store import KeyStore
from deploy.gateway.request_scope import RequestScope
from tests.unit.asgi_calls import Response, Upstream, call, scope_of

CHAT = "/v1/chat/completions"
LARGEST_BODY = 200_000


class Clock:
    """Seconds that pass only when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def entry(token: str, **fields: Any) -> dict[str, Any]:
    secret = token.encode()
    return {"name": "team", "prefix": prefix_of(secret), "hash": digest(secret)} | fields


def write(path: Path, *entries: dict[str, Any]) -> None:
    """A new file in the place of the old one, as an editor or a mounted secret changes it."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"keys": entries}))
    new.replace(path)


class Gate:
    """A key file, the middlewares that read it and the body, and an app behind them."""

    def __init__(self, path: Path, *entries: dict[str, Any], open_metrics: bool = False) -> None:
        self.path, self.clock, self.upstream = path, Clock(), Upstream()
        write(path, *entries)
        self.open_metrics = open_metrics
        self.watch(KeyStore(path, self.clock))

    def watch(self, keys: KeyStore) -> None:
        """Take the keys from ``keys`` from now on."""
        self.keys = keys
        body = ReadBody(self.upstream, LARGEST_BODY)
        self.app = RequestScope(KeysRequired(body, keys, open_metrics=self.open_metrics))

    def ask(self, scope: Scope, *chunks: bytes) -> Response:
        return call(self.app, scope, chunks or (b"{}",))

    def ask_with(self, token: str, path: str = CHAT, body: Any = None) -> Response:
        return self.ask(scope_of(path, {"authorization": f"Bearer {token}"}), json.dumps(body or {}).encode())


def code_of(response: Response) -> tuple[int, str]:
    return response.status, response.error["code"]
