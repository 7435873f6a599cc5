"""How the mock server answers a request: its schedule, its faults, and the bytes of its events."""

import json
import time
from enum import StrEnum
from itertools import cycle, islice
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

WORDS = list(islice(cycle([" wind", " from", " the", " sea", " über", " 風"]), 64))
"""Contents of the chunks in turn, some with characters of several bytes."""


class Fault(StrEnum):
    """What goes wrong, where one exists at the chunk ``fault_at``."""

    CUT = "cut"
    """Closes the connection."""
    ERROR_EVENT = "error_event"
    """Sends an error object as an event, and ends."""
    INVALID_UTF8 = "invalid_utf8"
    MALFORMED_JSON = "malformed_json"
    WRONG_EVENT = "wrong_event"
    """JSON that is no completion chunk."""
    HUGE_LINE = "huge_line"
    SILENCE = "silence"
    """Sends nothing more, and keeps the connection."""
    ENDLESS = "endless"
    """Ignores ``max_tokens``."""
    NO_USAGE = "no_usage"
    NO_DONE = "no_done"
    NO_FINISH = "no_finish"
    """Neither a finish reason nor ``[DONE]``, though the HTTP message ends well."""
    NO_TERMINATOR = "no_terminator"
    """``[DONE]``, but never the end of the HTTP message."""
    SLOW_HEADERS = "slow_headers"
    """Headers only with the first token."""
    CLOSE_IDLE = "close_idle"
    """Closes the connection after a good answer without having said so."""
    FRAGMENTS = "fragments"
    """CRLF line ends, and each byte in an HTTP chunk of its own."""
    NOT_SSE = "not_sse"
    """Ignores ``stream``: one JSON body."""
    NOT_HTTP = "not_http"
    TOO_MANY_REQUESTS = "429"
    INTERNAL_ERROR = "500"


class Script(BaseModel):
    """How one request is answered: the server's defaults, or the field ``mock`` of the request's body."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ttft_s: float = Field(default=0.1, ge=0, le=3600, description="seconds from the request to the first token")
    itl_s: float = Field(default=0.02, ge=0, le=3600, description="seconds from each chunk to the next")
    tokens: int | None = Field(default=None, ge=0, le=10**6, description="tokens to send; else what max_tokens says")
    tokens_per_chunk: int = Field(default=1, ge=1, le=1000, description="tokens in each chunk")
    reasoning_tokens: int = Field(default=0, ge=0, description="first so many chunks are reasoning, in chat")
    cached_tokens: int = Field(default=0, ge=0, description="prompt tokens reported as cached")
    fault: Fault | None = Field(default=None, description="what goes wrong")
    fault_at: int = Field(default=3, ge=0, description="the chunk at which it goes wrong, from 0")


def http_chunk(data: bytes) -> bytes:
    """One chunk of a chunked HTTP message."""
    return b"%x\r\n%s\r\n" % (len(data), data)


class Wording:
    """The events of one answer, each ready to be written."""

    def __init__(self, script: Script, body: dict[str, Any], *, chat: bool, model: str, request_id: str) -> None:
        self.script = script
        self.chat = chat
        options = body.get("stream_options")
        options = options if isinstance(options, dict) else {}
        self._usage_at_end = bool(options.get("include_usage")) and script.fault is not Fault.NO_USAGE
        self._usage_in_chunks = self._usage_at_end and bool(options.get("continuous_usage_stats"))
        self.prompt_tokens = count_prompt(body)
        asked = body.get("max_completion_tokens") or body.get("max_tokens")
        self.tokens: int = script.tokens if script.tokens is not None else asked if isinstance(asked, int) else 16
        self.chunks = -(-self.tokens // script.tokens_per_chunk)
        self._frame = {
            "id": request_id,
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        # A chunk is put together from bytes that are ready: JSON for each would halve what the mock can carry.
        start = json.dumps(self._frame)[:-1].encode() + b', "choices": [{"index": 0, "logprobs": null, '
        self._starts = {field: start + b'"delta": {"%s": "' % field.encode() for field in ("content", "reasoning")}
        self._ends = b'"}, "finish_reason": null}]' if chat else b'", "finish_reason": null}]'
        if not chat:
            self._starts = dict.fromkeys(self._starts, start + b'"text": "')
        self._words = [word.encode() * script.tokens_per_chunk for word in WORDS]

    def role(self) -> bytes:
        """The chunk that only names the role: it is no token."""
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        return self._event(self._frame | {"choices": [choice]}) if self.chat else b""

    def chunk(self, number: int) -> bytes:
        """The content chunk of that number, from 0."""
        word = self._words[number % len(self._words)]
        if number == self.script.fault_at:
            if self.script.fault is Fault.MALFORMED_JSON:
                return self._framed(b'data: {"choices": [\n\n')
            if self.script.fault is Fault.WRONG_EVENT:
                return self._framed(b'data: {"choices": 5}\n\n')
            if self.script.fault is Fault.INVALID_UTF8:
                word = b"\xff\xfe"
            if self.script.fault is Fault.HUGE_LINE:
                word = b"x" * (2 << 20)
        field = "reasoning" if number < self.script.reasoning_tokens else "content"
        return self._framed(b"data: %s%s%s%s}\n\n" % (self._starts[field], word, self._ends, self._chunk_usage(number)))

    def _chunk_usage(self, number: int) -> bytes:
        if not self._usage_in_chunks:
            return b""
        return b', "usage": ' + json.dumps(self.usage(self.sent_by(number))).encode()

    def sent_by(self, number: int) -> int:
        """Tokens in the chunks up to that one."""
        count = (number + 1) * self.script.tokens_per_chunk
        return count if self.script.fault is Fault.ENDLESS else min(count, self.tokens)

    def end(self) -> bytes:
        """What follows the last token: finish reason, usage, ``[DONE]``, and the end of the HTTP message."""
        fault = self.script.fault
        said: dict[str, Any] = {"delta": {}} if self.chat else {"text": ""}
        data = b""
        if fault is not Fault.NO_FINISH:
            data += self._event(self._frame | {"choices": [{"index": 0, **said, "finish_reason": "length"}]})
        if self._usage_at_end:
            data += self._event(self._frame | {"choices": [], "usage": self.usage(self.tokens)})
        if fault not in (Fault.NO_FINISH, Fault.NO_DONE):
            data += self._framed(b"data: [DONE]\n\n")
        return data + (b"" if fault is Fault.NO_TERMINATOR else http_chunk(b""))

    def error_event(self) -> bytes:
        """An error within the stream, in vLLM's shape, and its end."""
        error = {"message": "engine is dead", "type": "InternalServerError", "param": None, "code": 500}
        return self._event({"error": error}) + self._framed(b"data: [DONE]\n\n") + http_chunk(b"")

    def whole(self) -> dict[str, Any]:
        """The answer of a request that does not stream."""
        text = "".join(WORDS[number % len(WORDS)] for number in range(self.tokens))
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choices = [{"index": 0, **said, "finish_reason": "length"}]
        kind = "chat.completion" if self.chat else "text_completion"
        return self._frame | {"object": kind, "choices": choices, "usage": self.usage(self.tokens)}

    def usage(self, tokens: int) -> dict[str, Any]:
        """OpenAI's usage object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
            "prompt_tokens_details": {"cached_tokens": min(self.script.cached_tokens, self.prompt_tokens)},
        }

    def _event(self, value: dict[str, Any]) -> bytes:
        return self._framed(b"data: %s\n\n" % json.dumps(value).encode())

    def _framed(self, event: bytes) -> bytes:
        if self.script.fault is not Fault.FRAGMENTS:
            return http_chunk(event)
        event = event.replace(b"\n", b"\r\n")
        return b"".join(http_chunk(event[at : at + 1]) for at in range(len(event)))


def count_prompt(body: dict[str, Any]) -> int:
    """Tokens of the prompt: the ids of a list, else the words."""
    prompt, messages = body.get("prompt"), body.get("messages")
    if isinstance(prompt, list):
        return len(prompt)
    texts: list[Any] = [prompt]
    if isinstance(messages, list):
        texts += [message.get("content") for message in messages if isinstance(message, dict)]
    return sum(len(text.split()) for text in texts if isinstance(text, str))
