"""Holds a key to the models it may use. Only for keys that list models is a request's body read here."""

import json
from typing import Any

from deploy.gateway.asgi import Message, Receive, Scope, header
from deploy.gateway.errors import model_not_allowed, not_json, too_large
from deploy.gateway.key_file import Key

LARGEST_BODY = 4 * 1024 * 1024
"""Bytes. The longest prompt that Mistral 7B takes, 32,768 tokens, is about 130 KB of text."""


async def allowed_body(key: Key, scope: Scope, receive: Receive) -> Receive:
    """Read the whole body, check the model that it names, and return a ``receive`` that gives the body again.

    Raises:
        Refused: a model that the key does not list, no model, no JSON object, or more than ``LARGEST_BODY`` bytes.
    """
    body = await _read(scope, receive)
    model = _json_object(body).get("model")
    allowed = key.models or ()
    # vLLM takes its own model where none is named, so naming none must not open it.
    if not model:
        raise model_not_allowed(f"Name the model: this key may use {', '.join(allowed)}.")
    if model not in allowed:
        raise model_not_allowed(f"This key may not use that model: it may use {', '.join(allowed)}.")
    return _again(body, receive)


async def _read(scope: Scope, receive: Receive) -> bytes:
    length = header(scope, b"content-length") or b"0"
    if not length.isdigit() or int(length) > LARGEST_BODY:
        raise too_large(LARGEST_BODY)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise not_json()
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            raise too_large(LARGEST_BODY)
        if not message.get("more_body", False):
            return bytes(body)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        # As FastAPI reads it, so that both see the same model where a key appears twice.
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise not_json() from None
    if not isinstance(content, dict):
        raise not_json()
    return content


def _again(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
