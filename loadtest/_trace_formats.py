"""Traces of requests: the published formats and our own, read into one type, and written as our own.

Ours is JSON lines: a header ``{"trace": 1, "block_tokens": 512}``, then one object for each request with ``at_s``,
``prompt_tokens``, ``output_tokens`` and, where known, ``session`` and ``hash_ids``.
"""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from loadtest._errors import LoadTestError

Format = Literal["azure", "burstgpt", "mooncake", "mistral-serve"]
VERSION = 1
MOONCAKE_BLOCK_TOKENS = 512
"""Tokens that one of Mooncake's ``hash_ids`` stands for (kvcache-ai/Mooncake, README of its traces)."""
MOST_TOKENS = 1 << 24
"""A length beyond it is a mistake of the file."""
AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
BURSTGPT = ("Timestamp", "Request tokens", "Response tokens")
SESSION_COLUMNS = ("Session ID", "SessionID")


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request of a trace."""

    at_s: float
    """When it arrived, seconds since the first request of the trace."""
    prompt_tokens: int
    """At least 1."""
    output_tokens: int
    """At least 1."""
    session: str | None = None
    """The conversation that it belongs to."""
    hash_ids: tuple[int, ...] = ()
    """Names of the prompt's blocks in order, the last one perhaps shorter than ``Trace.block_tokens``. Prompts whose
    first n names are equal share the prefix of n blocks."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace in the order of arrival. There is at least one request; the first one is at 0."""

    format: Format
    """Of the file that it was read from."""
    requests: list[TraceRequest]
    block_tokens: int | None = None
    """Tokens that one of ``hash_ids`` stands for; None in a trace without them."""
    left_out: int = 0
    """Rows without prompt or output tokens: BurstGPT keeps failed requests so."""

    @property
    def duration_s(self) -> float:
        """From the first arrival to the last, seconds."""
        return self.requests[-1].at_s


@dataclass(slots=True)
class _Rows:
    """What a reader has found so far, with moments on the trace's own clock."""

    format: Format
    requests: list[TraceRequest] = field(default_factory=list)
    block_tokens: int | None = None
    left_out: int = 0

    def add(self, at_s: float, prompt_tokens: int, output_tokens: int, **known: Any) -> None:
        if prompt_tokens and output_tokens:
            self.requests.append(TraceRequest(at_s, prompt_tokens, output_tokens, **known))
        else:
            self.left_out += 1


def read(path: Path) -> Trace:
    """Read a trace of any known format, told apart by its first line.

    Raises LoadTestError for a file that cannot be read, of no known format, with a malformed row, or without requests.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = _read(path, _Lines(file))
    except OSError as error:
        raise LoadTestError(f"the trace {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LoadTestError(f"the trace {path} is not UTF-8: give the unpacked CSV or JSON lines file") from None
    if not rows.requests:
        raise LoadTestError(f"the trace {path} holds no request with prompt and output tokens")
    ordered = sorted(rows.requests, key=lambda request: request.at_s)
    start = ordered[0].at_s
    # Microseconds, as no published trace is finer; the difference of two epoch times has noise below them.
    requests = [replace(request, at_s=round(request.at_s - start, 6)) for request in ordered]
    return Trace(rows.format, requests, rows.block_tokens, rows.left_out)


def write(trace: Trace, path: Path) -> None:
    """Write a trace in our own format. Raises OSError."""
    header = {"trace": VERSION} | ({} if trace.block_tokens is None else {"block_tokens": trace.block_tokens})
    lines = [json.dumps(values) for values in (header, *map(_values, trace.requests))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _values(request: TraceRequest) -> dict[str, Any]:
    values: dict[str, Any] = {
        "at_s": request.at_s,
        "prompt_tokens": request.prompt_tokens,
        "output_tokens": request.output_tokens,
    }
    if request.session is not None:
        values["session"] = request.session
    return values | ({"hash_ids": list(request.hash_ids)} if request.hash_ids else {})


class _Lines:
    """The lines of a file, counted."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.number = 0
        self._lines = iter(lines)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        return line


def _read(path: Path, lines: _Lines) -> _Rows:
    try:
        first = next(lines, "")
        return _read_json(first, lines) if first.lstrip().startswith("{") else _read_csv(first, lines)
    except UnicodeDecodeError:
        raise
    except (ValueError, csv.Error) as error:
        raise LoadTestError(f"line {max(1, lines.number)} of {path} cannot be read: {error}") from None


def _read_csv(first: str, lines: _Lines) -> _Rows:
    columns = [name.strip() for name in next(csv.reader([first]), [])]
    if set(AZURE) <= set(columns):
        rows, add = _Rows("azure"), _azure
    elif set(BURSTGPT) <= set(columns):
        rows, add = _Rows("burstgpt"), _burstgpt
    else:
        raise ValueError(
            f"it begins no known trace: that takes the columns {','.join(AZURE)} (Azure) or {','.join(BURSTGPT)} "
            "(BurstGPT), or JSON lines (Mooncake, and what `trace --convert` writes)"
        )
    for cells in filter(None, csv.reader(lines)):
        if len(cells) != len(columns):
            raise ValueError(f"{len(cells)} values where there are {len(columns)} columns")
        add(rows, dict(zip(columns, cells, strict=True)))
    return rows


def _azure(rows: _Rows, row: Mapping[str, str]) -> None:
    rows.add(_moment(row["TIMESTAMP"]), *(_tokens(row[name], name) for name in AZURE[1:]))


def _burstgpt(rows: _Rows, row: Mapping[str, str]) -> None:
    session = next((row[name] for name in SESSION_COLUMNS if row.get(name)), None)
    at_s = _seconds(row["Timestamp"], "Timestamp")
    rows.add(at_s, *(_tokens(row[name], name) for name in BURSTGPT[1:]), session=session)


def _read_json(first: str, lines: _Lines) -> _Rows:
    header = _object(first)
    if "trace" not in header:
        rows, add = _Rows("mooncake", block_tokens=MOONCAKE_BLOCK_TOKENS), _mooncake
        add(rows, header)
    elif header["trace"] != VERSION:
        raise ValueError(f"the trace is of version {header['trace']}, and this program reads version {VERSION}")
    else:
        rows, add = _Rows("mistral-serve"), _own
        if "block_tokens" in header:
            rows.block_tokens = max(1, _tokens(header["block_tokens"], "block_tokens"))
    for line in lines:
        if line.strip():
            add(rows, _object(line))
    return rows


def _object(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 (one kind of mistake for every malformed row)
    return values


def _mooncake(rows: _Rows, row: Mapping[str, Any]) -> None:
    at_s = _seconds(_value(row, "timestamp"), "timestamp") / 1000
    lengths = (_tokens(_value(row, name), name) for name in ("input_length", "output_length"))
    rows.add(at_s, *lengths, hash_ids=_hash_ids(row))


def _own(rows: _Rows, row: Mapping[str, Any]) -> None:
    session = row.get("session")
    if session is not None and not isinstance(session, str):
        raise ValueError(f"session {session!r} is no text")
    lengths = (_tokens(_value(row, name), name) for name in ("prompt_tokens", "output_tokens"))
    rows.add(_seconds(_value(row, "at_s"), "at_s"), *lengths, session=session, hash_ids=_hash_ids(row))


def _value(row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise ValueError(f"{name} is missing")
    return row[name]


def _hash_ids(row: Mapping[str, Any]) -> tuple[int, ...]:
    ids = row.get("hash_ids", [])
    if not isinstance(ids, list) or not all(type(one) is int for one in ids):
        raise ValueError("hash_ids is no list of whole numbers")
    return tuple(ids)


def _tokens(value: Any, name: str) -> int:
    # A float that is a whole number is one: spreadsheets write 12.0.
    number = _seconds(value, name)
    if not number.is_integer() or number > MOST_TOKENS:
        raise ValueError(f"{name} {value!r} is no number of tokens")
    return int(number)


def _seconds(value: Any, name: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} {value!r} is no number from 0")
    return number


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"TIMESTAMP {text!r} is no moment such as 2023-11-16 18:15:46.680") from None
    # 2023's trace names no time zone, 2024's names UTC.
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
