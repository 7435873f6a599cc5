"""ASGI's types and the few look-ups that every middleware needs (ASGI specification 3.0, HTTP connection scope)."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def header(scope: Scope, name: bytes) -> bytes | None:
    """Value of the first header called ``name`` (in lower case), or ``None``."""
    return next((value for key, value in scope["headers"] if key == name), None)


def path_of(scope: Scope) -> str:
    """The path below the prefix that the application is mounted under, decoded: what its routes are matched with."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path.removeprefix(root) if path.startswith(f"{root}/") else path
