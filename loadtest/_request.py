"""What a load test sends (``RequestSpec``) and what became of it (``Record``): the types that all parts share."""

import time
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Literal, Self

Api = Literal["chat", "completions"]
TokenSource = Literal["usage", "continuous_usage", "chunks"]


class ErrorKind(StrEnum):
    """How a request failed. A request without one was answered to its end."""

    CONNECT = "connect"
    """No connection: name not found, refused, TLS failed, or not within the connect timeout."""
    TIMEOUT = "timeout"
    """Not answered to its end within the total deadline."""
    STATUS = "status"
    """An HTTP status other than 200."""
    CUT = "cut"
    """The connection or the stream ended before the answer did."""
    MALFORMED = "malformed"
    """What came is no HTTP, no event stream, no JSON, no UTF-8, or has no end."""
    SERVER_EVENT = "server_event"
    """The server reported an error inside the stream."""
    CANCELLED = "cancelled"
    """The client hung up because it was asked to: no failure of the server."""


@dataclass(slots=True)
class RequestSpec:
    """What to send, built before the run so that building costs no time while measuring."""

    api: Api
    model: str
    scenario: str
    messages: list[dict[str, str]] | None
    prompt: str | list[int] | None
    max_tokens: int
    extra: dict[str, Any]
    """Further fields of the body: temperature, ignore_eos, response_format, ..."""
    cancel_after_tokens: int | None = None
    """Hang up after so many chunks with content."""
    expected_prompt_tokens: int | None = None


@dataclass(slots=True)
class Record:
    """What became of one request. Times are ``time.perf_counter()`` seconds of the process that sent it."""

    scenario: str
    api: str
    worker: int
    index: int
    intended: float | None
    """Open loop: when it should have been sent."""
    sent: float
    """When the client was ready to send. Connecting comes after it, and so is part of TTFT and E2E, not of the lag."""
    headers: float | None
    first: float | None
    """Arrival of the first chunk with content, reasoning or a tool call."""
    last: float | None
    """Arrival of the last such chunk."""
    ended: float
    """Arrival of the last byte, or the moment at which the client gave up."""
    status: int
    """HTTP status; 0 where no answer came."""
    error: ErrorKind | None
    detail: str
    """One short phrase about the error, without any text of the prompt or the answer."""
    prompt_tokens: int | None
    output_tokens: int
    token_source: TokenSource
    gaps: list[tuple[float, int]]
    """For each content chunk after the first: seconds since the chunk before, and the tokens in it."""
    first_chunk_tokens: int
    max_tokens: int
    expected_prompt_tokens: int | None
    cached_tokens: int | None
    request_id: str
    text: str | None
    """The answer, only where the caller asked to keep it. It is never shipped: ``to_row`` leaves it out."""

    @property
    def ttft(self) -> float | None:
        """Time to first token, seconds: first − sent. Connecting is in it where no kept connection was idle."""
        return None if self.first is None else self.first - self.sent

    @property
    def schedule_ttft(self) -> float | None:
        """Time to first token from the intended send time, seconds: what a user felt who could not wait to send."""
        return None if self.first is None or self.intended is None else self.first - self.intended

    @property
    def e2e(self) -> float:
        """Seconds from sending to the last byte: ended − sent. Of a failed request: until it failed."""
        return self.ended - self.sent

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first, seconds: (E2E − TTFT) / (n − 1)."""
        if self.first is None or self.output_tokens < 2:
            return None
        return (self.ended - self.first) / (self.output_tokens - 1)

    @property
    def itl(self) -> list[float]:
        """Inter-token latencies, seconds: each chunk's gap / the tokens in the chunk."""
        return [gap / tokens for gap, tokens in self.gaps]

    @property
    def largest_stall(self) -> float | None:
        """The longest time between two chunks, seconds."""
        return max((gap for gap, _ in self.gaps), default=None)

    @property
    def lag(self) -> float | None:
        """Seconds by which the client sent it late: sent − intended."""
        return None if self.intended is None else self.sent - self.intended

    @property
    def counted_tokens(self) -> int:
        """Tokens attributed to chunks. Far below ``output_tokens``: chunks held several tokens and ITL is too long."""
        return self.first_chunk_tokens + sum(tokens for _, tokens in self.gaps)

    def shifted(self, seconds: float) -> Self:
        """The same record with every time moved by ``seconds``, to bring records of many processes onto one clock."""

        def moved(moment: float | None) -> float | None:
            return None if moment is None else moment + seconds

        return replace(
            self,
            intended=moved(self.intended),
            sent=self.sent + seconds,
            headers=moved(self.headers),
            first=moved(self.first),
            last=moved(self.last),
            ended=self.ended + seconds,
        )

    def to_row(self) -> list[Any]:
        """Plain JSON values in the order of the fields, times rounded to a microsecond, the text left out."""
        row: list[Any] = []
        for name in FIELDS:
            value = getattr(self, name)
            if name == "text":
                value = None
            elif name == "gaps":
                value = [[round(gap, 6), tokens] for gap, tokens in value]
            elif isinstance(value, float):
                value = round(value, 6)
            row.append(value)
        return row

    @classmethod
    def from_row(cls, row: list[Any]) -> Self:
        """The record of a row. Raises ValueError for a row that ``to_row`` did not make."""
        values = dict(zip(FIELDS, row, strict=True))
        values["error"] = None if values["error"] is None else ErrorKind(values["error"])
        values["gaps"] = [(gap, tokens) for gap, tokens in values["gaps"]]
        return cls(**values)


FIELDS = tuple(field.name for field in fields(Record))
"""The names of a row's values, in order."""


@dataclass(frozen=True, slots=True)
class ClockAnchor:
    """One moment on both clocks of a process: the wall clock joins processes, ``perf_counter`` measures durations."""

    perf: float
    wall: float

    @classmethod
    def now(cls) -> Self:
        """The present moment."""
        return cls(time.perf_counter(), time.time())

    def to_wall(self, perf: float) -> float:
        """Seconds since the epoch of a ``perf_counter`` value of the same process."""
        return self.wall + (perf - self.perf)
