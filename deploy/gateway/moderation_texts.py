"""The texts of a request and of an answer that the moderation endpoint is asked about.

What a chat template makes of a request is not known here: one writes the names of roles into the prompt, another the
ids of tool calls. So every string of the fields that templates see counts as text, but for the protocol's own words.
"""

import json
from collections.abc import Iterator
from typing import Any

from deploy.gateway.errors import INVALID_REQUEST, ApiError, Refused


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PROMPT_FIELDS = {
    "/v1/chat/completions": ("messages", "tools", "documents", "chat_template_kwargs"),
    "/v1/completions": ("prompt", "suffix"),
    "/v1/responses": ("instructions", "input", "previous_input_messages", "tools", "prompt", "chat_template_kwargs"),
    "/v1/messages": ("system", "messages", "tools", "chat_template_kwargs"),
}
_UNSEEN = ("prompt_embeds", "previous_response_id")
"""Fields that bring a prompt whose text is not in the request."""

_MEDIA_FIELDS = _words(
    "image_url input_audio audio_url video_url image_pil image_embeds audio_embeds file_data file_url file_id"
)
_MEDIA_TYPES = ("image", "input_image", "document", "file", "input_file", "item_reference")
"""What marks a part of a message that is no text."""

_WITHOUT_MEDIA = {"tools", "documents", "chat_template_kwargs"}
"""Fields in which those words are names like any other."""

_WORDS = _words(
    "role type content text name id index messages system user assistant tool developer function tools tool_calls "
    "tool_call_id call_id tool_use_id tool_use tool_result arguments input output input_text output_text message "
    "function_call function_call_output reasoning thinking parameters properties description required object string "
    "integer number boolean array items enum auto none strict status completed cache_control ephemeral null"
)
"""Names of fields and fixed values of the protocols and of JSON Schema: no text of the client's."""

_ANSWER_LABELS = _words(
    "id call_id item_id type role status object logprobs index signature annotations format encrypted_content"
)
"""Fields of an answer that the server fills, not the model."""

_ARGUMENTS = "input"
"""Where Anthropic's tool calls have their arguments, whose names are the model's own."""


def prompt_texts(route: str, body: dict[str, Any]) -> list[str]:
    """The texts of a request, one for each message, prompt or tool; empty ones are left out.

    Raises:
        Refused: the prompt, or a part of it, is no text that could be judged.
    """
    for field in _UNSEEN:
        if body.get(field) is not None:
            raise _not_judged(field)
    texts = []
    for field in _PROMPT_FIELDS[route]:
        value = body.get(field)
        if field == "prompt" and _has_token_ids(value):
            raise _not_judged(field)
        for part in value if isinstance(value, list) else [value]:
            texts.append("\n".join(_strings(part, field)))
    return [text for text in texts if text.strip()]


def _has_token_ids(prompt: Any) -> bool:
    values = prompt if isinstance(prompt, list) else [prompt]
    return any(isinstance(value, int | list) for value in values)


def _strings(value: Any, field: str) -> Iterator[str]:
    # Not recursive: a body may be nested as deep as its parser allows.
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str) and value not in _WORDS:
            yield value
        elif isinstance(value, dict):
            if field not in _WITHOUT_MEDIA and _is_media(value):
                raise _not_judged(field)
            waiting += [entry for name, inner in reversed(value.items()) for entry in (inner, name)]
        elif isinstance(value, list):
            waiting += reversed(value)


def _is_media(part: dict[str, Any]) -> bool:
    named = any(part[name] is not None for name in _MEDIA_FIELDS & part.keys())
    return named or part.get("type") in _MEDIA_TYPES


def _not_judged(field: str) -> Refused:
    message = f"{field} holds something else than text, which this server's moderation cannot judge: send text."
    return Refused(ApiError(400, INVALID_REQUEST, "not_moderatable", message, field))


def answer_strings(value: Any) -> Iterator[str]:
    """Every string that the model wrote in a part of an answer, in its order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name == _ARGUMENTS and isinstance(inner, dict):
                yield from [json.dumps(inner, ensure_ascii=False)] if inner else []
            elif name not in _ANSWER_LABELS:
                yield from answer_strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from answer_strings(inner)


def token_texts(value: Any) -> Iterator[str]:
    """The text of the tokens of each list of log probabilities in a part of an answer.

    A chat and a response list an object for each token, a completion the tokens alone. They are ahead of the answer's
    own text while a part of that could still become a stop string, and a stop string that came is in them only.
    """
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "logprobs":
                yield _joined(inner)
            else:
                yield from token_texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from token_texts(inner)


def _joined(logprobs: Any) -> str:
    if isinstance(logprobs, dict):
        logprobs = logprobs.get("content") or logprobs.get("tokens")
    tokens = [entry.get("token") if isinstance(entry, dict) else entry for entry in logprobs or ()]
    return "".join(token for token in tokens if isinstance(token, str))
