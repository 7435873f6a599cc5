"""Puts the operator's system prompt in front of a chat, whatever the client's own says.

Chat templates often take one system message, and only as the first one. So a conversation that begins with a system
message keeps it, behind the operator's text, and no second one is made.
"""

from typing import Any

from deploy.gateway.errors import INVALID_REQUEST, ApiError, Refused


def add_safe_prompt(route: str, body: dict[str, Any], text: str) -> bool:
    """Put ``text`` first in the chat that ``body`` asks for on ``route``; returns whether the route takes chats.

    Raises:
        Refused: what the text must go in front of is of a type that no chat has.
    """
    if route == "/v1/chat/completions":
        _into_messages(body, "messages", text, "text")
    elif route in {"/v1/messages", "/v1/messages/count_tokens"}:
        body["system"] = _before(body.get("system"), text, "text", "system")
    elif route == "/v1/responses":
        # vLLM makes a system message of the instructions, in front of the input's own.
        if body.get("instructions") is None and _begins_with_system(body.get("input")):
            _into_messages(body, "input", text, "input_text")
        else:
            body["instructions"] = _before(body.get("instructions"), text, "input_text", "instructions")
    else:
        return False
    return True


def _into_messages(body: dict[str, Any], field: str, text: str, part: str) -> None:
    messages = body.get(field)
    if not isinstance(messages, list):
        raise _wrong_type(field, "a list of messages")
    if _begins_with_system(messages):
        first = messages[0]
        merged = _before(first.get("content"), text, part, f"{field}[0].content")
        body[field] = [first | {"content": merged}, *messages[1:]]
    else:
        body[field] = [{"role": "system", "content": text}, *messages]


def _begins_with_system(messages: Any) -> bool:
    first = messages[0] if isinstance(messages, list) and messages else None
    return isinstance(first, dict) and first.get("role") in ("system", "developer")


def _before(content: Any, text: str, part: str, field: str) -> Any:
    """``content`` of a system message, text or parts of the type ``part``, behind ``text``."""
    if content is None or content == "":
        return text
    if isinstance(content, str):
        return f"{text}\n\n{content}"
    if isinstance(content, list):
        return [{"type": part, "text": text}, *content]
    raise _wrong_type(field, "text or a list of parts")


def _wrong_type(field: str, wanted: str) -> Refused:
    return Refused(ApiError(400, INVALID_REQUEST, None, f"{field} is not {wanted}.", field))
