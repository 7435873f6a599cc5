"""Prevents: the first command of the README, a plain `curl -d`, being refused for its content type."""

import asyncio
from typing import Any

import pytest

from deploy.gateway.content_type import FormIsJson


def headers_seen(headers: list[tuple[bytes, bytes]], kind: str = "http") -> list[tuple[bytes, bytes]]:
    """The headers that the app behind the middleware gets."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope.get("headers"))

    async def nothing(*_: Any) -> Any:
        raise AssertionError("the middleware neither reads nor writes")

    asyncio.run(FormIsJson(app)({"type": kind, "headers": headers}, nothing, nothing))
    return list(seen[0])


@pytest.mark.parametrize(
    "value", [b"application/x-www-form-urlencoded", b"application/x-www-form-urlencoded; charset=utf-8"]
)
def test_a_forms_content_type_becomes_json(value: bytes) -> None:
    assert headers_seen([(b"host", b"a"), (b"content-type", value)]) == [
        (b"host", b"a"),
        (b"content-type", b"application/json"),
    ]


@pytest.mark.parametrize(
    "headers", [[], [(b"content-type", b"application/json")], [(b"content-type", b"multipart/form-data; b=1")]]
)
def test_any_other_request_passes_unchanged(headers: list[tuple[bytes, bytes]]) -> None:
    assert headers_seen(headers) == headers


def test_other_protocols_pass_unchanged() -> None:
    header = [(b"content-type", b"application/x-www-form-urlencoded")]
    assert headers_seen(header, kind="websocket") == header
