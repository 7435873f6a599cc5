"""The server-sent events of vLLM's streams: the text in each, and how a stream is ended before its time.

Events are ``data: JSON`` lines and perhaps an ``event:`` line, each ended by an empty line
(https://html.spec.whatwg.org/multipage/server-sent-events.html).
"""

import json
from dataclasses import dataclass, field
from typing import Any, Protocol

from deploy.gateway.moderation_answers import WITHHELD, withhold_response
from deploy.gateway.moderation_texts import answer_strings, token_texts
from deploy.gateway.request import RequestRecord

_END = b"\n\n"
_DONE = b"data: [DONE]\n\n"
Texts = dict[str, str]
"""What an event adds to each text of an answer, by a name for that text; those without anything new are not there.

The tokens of log probabilities are a text of their own beside the choice's (``moderation_texts.token_texts``).
"""
_ONLY, _TOKENS = "0", "tokens"


@dataclass
class Event:
    """One event as vLLM wrote it, its end included; ``texts`` is what is new in it."""

    content: bytes
    texts: Texts = field(default_factory=dict)
    _data: Any = None

    @property
    def data(self) -> Any:
        """The parsed data; ``None`` for a comment and the last event, the text itself for what is no JSON."""
        if self._data is None:
            lines = [line[5:].strip() for line in self.content.splitlines() if line.startswith(b"data:")]
            text = b"\n".join(lines)
            if text and text != b"[DONE]":
                try:
                    self._data = json.loads(text)
                except (ValueError, RecursionError):
                    self._data = text.decode(errors="replace")
        return self._data


def split(content: bytes, *, last: bool) -> tuple[list[bytes], bytes]:
    """The whole events in ``content``, and what is left; at the end of the stream everything is an event."""
    *events, rest = content.split(_END)
    whole = [event + _END for event in events]
    return ([*whole, rest], b"") if last and rest else (whole, rest)


def write(data: dict[str, Any], name: str = "") -> bytes:
    """An event, with a name where the protocol has names."""
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(data).encode() + _END


class Format(Protocol):
    """The stream of one protocol; it remembers what ending the stream takes."""

    def texts(self, event: Event) -> Texts:
        """What ``event`` adds to the texts of the choices."""
        ...

    def passed(self, event: Event) -> None:
        """``event`` is on its way to the client."""
        ...

    def ending(self, record: RequestRecord) -> bytes:
        """The events with which a filter ends the stream."""
        ...


def format_of(route: str) -> Format:
    """The format of a generating route's streams."""
    if route == "/v1/messages":
        return MessageEvents()
    return ResponseEvents() if route == "/v1/responses" else ChoiceEvents(chat=route == "/v1/chat/completions")


def _text(value: Any) -> str:
    return "".join(answer_strings(value))


class ChoiceEvents:
    """Chunks of OpenAI's chats and completions."""

    def __init__(self, *, chat: bool) -> None:
        self._empty: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        self._part = "delta" if chat else "text"
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._envelope: dict[str, Any] = {}

    def texts(self, event: Event) -> Texts:
        """The deltas of each choice."""
        data = event.data
        if not isinstance(data, dict):
            return {_ONLY: data} if data else {}
        found: Texts = {}
        if choices := data.get("choices"):
            self._envelope = {name: data[name] for name in ("id", "object", "created", "model") if name in data}
            for choice in choices:
                self._seen.add(choice["index"])
                for name, text in (("", _text(choice.get(self._part))), (_TOKENS, "".join(token_texts(choice)))):
                    if text:
                        place = f"{choice['index']}{name}"
                        found[place] = found.get(place, "") + text
        return found

    def passed(self, event: Event) -> None:
        """Note which choices are complete."""
        if isinstance(data := event.data, dict):
            finished = [choice["index"] for choice in data.get("choices", ()) if choice.get("finish_reason")]
            self._finished.update(finished)

    def ending(self, record: RequestRecord) -> bytes:
        """A chunk that finishes each choice that is not complete, the usage if asked for, and the last event."""
        end = {"logprobs": None, "finish_reason": WITHHELD}
        choices = [{"index": index, **self._empty, **end} for index in sorted(self._seen - self._finished)]
        events = write({**self._envelope, "choices": choices})
        if _wants_usage(record):
            prompt, completion = record.prompt_tokens, record.completion_tokens
            usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
            events += write({**self._envelope, "choices": [], "usage": usage})
        return events + _DONE


def _wants_usage(record: RequestRecord) -> bool:
    options = (record.body or {}).get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


class MessageEvents:
    """Anthropic's stream of a message (https://docs.claude.com/en/docs/build-with-claude/streaming)."""

    def __init__(self) -> None:
        self._open_block: int | None = None

    def texts(self, event: Event) -> Texts:
        """What a content block begins with, and its deltas."""
        data = event.data
        if not isinstance(data, dict):
            return {_ONLY: data} if data else {}
        text = _text([data.get("content_block"), data.get("delta")]) if "block" in str(data.get("type")) else ""
        return {_ONLY: text} if text else {}

    def passed(self, event: Event) -> None:
        """Note which content block is open."""
        if isinstance(data := event.data, dict):
            if data.get("type") == "content_block_start":
                self._open_block = data["index"]
            elif data.get("type") == "content_block_stop":
                self._open_block = None

    def ending(self, record: RequestRecord) -> bytes:
        """The end of the open content block, and of the message."""
        events = b""
        if self._open_block is not None:
            events = self._write({"type": "content_block_stop", "index": self._open_block})
        events += self._write(
            {
                "type": "message_delta",
                "delta": {"stop_reason": "refusal", "stop_sequence": None},
                "usage": {"input_tokens": record.prompt_tokens, "output_tokens": record.completion_tokens},
            }
        )
        return events + self._write({"type": "message_stop"})

    def _write(self, data: dict[str, Any]) -> bytes:
        return write(data, str(data["type"]))


class ResponseEvents:
    """OpenAI's stream of a response, which repeats at the end of each part what its deltas said."""

    def __init__(self) -> None:
        self._said = self._tokens = ""
        self._response: dict[str, Any] = {}
        self._number = -1

    def texts(self, event: Event) -> Texts:
        """The deltas, and of what repeats them only what they did not say."""
        data = event.data
        if not isinstance(data, dict):
            return {_ONLY: data} if data else {}
        tokens = "".join(token_texts(data))
        if str(data.get("type")).endswith(".delta"):
            new = _text(data.get("delta"))
        else:
            tokens = tokens if tokens not in self._tokens else ""
            response = data.get("response") or {}
            parts = [
                data.get("text"),
                data.get("arguments"),
                data.get("part"),
                data.get("item"),
                response.get("output"),
            ]
            new = "".join(text for text in answer_strings(parts) if text not in self._said)
        self._said += new
        self._tokens += tokens
        return {name: text for name, text in ((_ONLY, new), (_TOKENS, tokens)) if text}

    def passed(self, event: Event) -> None:
        """Note the response as the client knows it."""
        if isinstance(data := event.data, dict):
            self._number = data.get("sequence_number", self._number)
            self._response = data.get("response") or self._response

    def ending(self, record: RequestRecord) -> bytes:
        """The response, incomplete."""
        withhold_response(self._response)
        prompt, completion = record.prompt_tokens, record.completion_tokens
        self._response["usage"] = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + completion,
        }
        name = "response.incomplete"
        return write({"type": name, "sequence_number": self._number + 1, "response": self._response}, name)
