"""What the events of one streamed completion say: when content came, how many tokens, and how it ended."""

import json
import re
from typing import Any

from loadtest._request import ErrorKind, RequestSpec, TokenSource
from loadtest._sse import Event

EVENTS_PER_TOKEN = 4
"""A server sends about one event for each token. One that sends four times ``max_tokens`` of them has no end."""
SPARE_EVENTS = 64
LARGEST_COUNT = 1 << 31
"""A token count beyond it is a mistake of the server and is ignored."""


class RequestError(Exception):
    """A request failed, or was given up. ``detail`` is short and holds no text of the prompt or the answer."""

    def __init__(self, kind: ErrorKind, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


class Answer:
    """Gathers one answer, event by event."""

    def __init__(self, spec: RequestSpec, *, keep_text: bool) -> None:
        self.first: float | None = None
        self.last: float | None = None
        self.gaps: list[tuple[float, int]] = []
        self.first_chunk_tokens = 0
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.id = ""
        self.done = False
        """``[DONE]`` came."""
        self.finished = False
        """A finish reason came."""
        self._text: list[str] | None = [] if keep_text else None
        self._is_chat = spec.api == "chat"
        self._cancel_after = spec.cancel_after_tokens
        self._most_events = EVENTS_PER_TOKEN * spec.max_tokens + SPARE_EVENTS
        self._events = 0
        self._completion_tokens: int | None = None
        self._attributed = 0
        """Tokens that belong to the chunks so far."""
        self._counts_chunks = False
        """Chunks with content carry a usage of their own."""

    def take(self, event: Event, at: float) -> None:
        """One event that arrived at ``at``. Raises RequestError where the request ends with it."""
        if event.data == b"[DONE]":
            self.done = True
            return
        self._events += 1
        if self._events > self._most_events:
            raise RequestError(ErrorKind.MALFORMED, f"no end after {self._most_events} events")
        chunk = self._parse(event)
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            raise RequestError(ErrorKind.MALFORMED, f"event {self._events} has no list of choices")
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self._take_usage(usage)
        if not self.id:
            self.id = str(chunk.get("id") or "")
        said = False
        for choice in choices:
            said = self._take_choice(choice) or said
        if said:
            self._take_content(at, has_usage=isinstance(usage, dict))

    def _parse(self, event: Event) -> dict[str, Any]:
        try:
            chunk = json.loads(str(event.data, "utf-8"))
        except UnicodeDecodeError:
            raise RequestError(ErrorKind.MALFORMED, f"event {self._events} is not UTF-8") from None
        except (ValueError, RecursionError):
            raise RequestError(ErrorKind.MALFORMED, f"event {self._events} is not JSON") from None
        if event.type == b"error" or (
            isinstance(chunk, dict) and (chunk.get("error") or chunk.get("object") == "error")
        ):
            raise RequestError(ErrorKind.SERVER_EVENT, error_name(chunk))
        if not isinstance(chunk, dict):
            raise RequestError(ErrorKind.MALFORMED, f"event {self._events} is not a JSON object")
        return chunk

    def _take_usage(self, usage: dict[str, Any]) -> None:
        self._completion_tokens = _count(usage.get("completion_tokens"), self._completion_tokens)
        self.prompt_tokens = _count(usage.get("prompt_tokens"), self.prompt_tokens)
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict):
            self.cached_tokens = _count(details.get("cached_tokens"), self.cached_tokens)

    def _take_choice(self, choice: Any) -> bool:
        """Whether the choice says something: content, reasoning or a tool call. The role alone says nothing."""
        if not isinstance(choice, dict):
            raise RequestError(ErrorKind.MALFORMED, f"a choice in event {self._events} is not a JSON object")
        if choice.get("finish_reason"):
            self.finished = True
        if not self._is_chat:
            return self._keep(choice.get("text"))
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return False
        return bool(
            self._keep(delta.get("content"))
            or delta.get("reasoning_content")
            or delta.get("reasoning")
            or delta.get("tool_calls")
            or delta.get("function_call")
            or delta.get("refusal")
        )

    def _keep(self, text: Any) -> bool:
        if text and self._text is not None:
            self._text.append(str(text))
        return bool(text)

    def _take_content(self, at: float, *, has_usage: bool) -> None:
        tokens = 1
        if has_usage and self._completion_tokens is not None:
            self._counts_chunks = True
            tokens = max(1, self._completion_tokens - self._attributed)
        self._attributed += tokens
        if self.last is None:
            self.first = at
            self.first_chunk_tokens = tokens
        else:
            self.gaps.append((at - self.last, tokens))
        self.last = at
        chunks = len(self.gaps) + 1
        if chunks == self._cancel_after:
            raise RequestError(ErrorKind.CANCELLED, f"hung up after {chunks} chunks, as asked")

    @property
    def text(self) -> str | None:
        """The content so far, if it is kept."""
        return None if self._text is None else "".join(self._text)

    @property
    def output_tokens(self) -> int:
        """Tokens of the answer, from the server's usage where it sent one."""
        return self._attributed if self._completion_tokens is None else self._completion_tokens

    @property
    def token_source(self) -> TokenSource:
        """Where the token counts come from."""
        if self._completion_tokens is None:
            return "chunks"
        return "continuous_usage" if self._counts_chunks else "usage"


def error_name(body: Any) -> str:
    """The code and type of an OpenAI error object. Its message is left out: servers quote the request in it."""
    error = body.get("error", body) if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return "no error object"
    names = [str(error[key]) for key in ("code", "type") if isinstance(error.get(key), str | int)]
    kept = [name for name in dict.fromkeys(names) if re.fullmatch(r"[\w.-]{1,64}", name)]
    return " ".join(kept) or "an error without a name"


def _count(value: Any, otherwise: int | None) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST_COUNT
    return value if is_count else otherwise
