"""A whole answer of each of vLLM's protocols: the texts in it, and what is left of it when one is harmful.

How each protocol says that a filter withheld the text: ``finish_reason: content_filter`` (OpenAI's completions and
chats), ``incomplete_details.reason: content_filter`` (OpenAI's responses), ``stop_reason: refusal`` (Anthropic's
messages, https://docs.claude.com/en/api/handling-stop-reasons).
"""

from collections.abc import Sequence
from typing import Any

from deploy.gateway.moderation_texts import answer_strings, token_texts

WITHHELD = "content_filter"
_TEXT_COPIES = ("input_messages", "output_messages")
"""Further places in which vLLM repeats the text of a response on request."""


def choice_texts(route: str, answer: dict[str, Any]) -> list[str]:
    """The text of each choice, in their order; of protocols without choices, the one text."""
    if route == "/v1/responses":
        return [_text(answer.get("output"), answer.get("output"))]
    if route == "/v1/messages":
        return [_text(answer.get("content"))]
    return [_text(choice.get("message", choice.get("text")), choice) for choice in answer["choices"]]


def _text(part: Any, with_logprobs: Any = None) -> str:
    said = "\n".join(answer_strings(part))
    return "\n".join([said, *(text for text in token_texts(with_logprobs) if text not in said)])


def withhold(route: str, answer: dict[str, Any], harmful: Sequence[bool]) -> None:
    """Take the text of the harmful choices out of ``answer``, and everything that repeats it."""
    if route == "/v1/responses":
        withhold_response(answer)
    elif route == "/v1/messages":
        answer |= {"content": [], "stop_reason": "refusal", "stop_sequence": None}
    else:
        kept = zip(answer["choices"], harmful, strict=True)
        answer["choices"] = [_without_text(choice) if bad else choice for choice, bad in kept]


def withhold_response(response: dict[str, Any]) -> None:
    """Make ``response`` one that a filter ended."""
    for name in _TEXT_COPIES:
        response.pop(name, None)
    response |= {"output": [], "status": "incomplete", "incomplete_details": {"reason": WITHHELD}}


def _without_text(choice: dict[str, Any]) -> dict[str, Any]:
    """The choice with nothing but what clients need: token ids and log probabilities would repeat the text."""
    text = {"message": {"role": "assistant", "content": ""}} if "message" in choice else {"text": ""}
    return {"index": choice["index"], **text, "logprobs": None, "finish_reason": WITHHELD}
