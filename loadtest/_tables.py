"""``requests.csv`` and ``health.csv``: every request and every second of the client, complete enough to be read back.

Times are milliseconds with three decimals. ``*_at_ms`` is a moment since the start of the run, others are durations.
"""

import csv
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from loadtest._errors import LoadTestError
from loadtest._request import ErrorKind, Record, TokenSource
from loadtest._run_data import HealthSample, RunData
from loadtest._slo import Objective, meets_all, own_latency

Row = TypeVar("Row")
MOMENTS = ("intended", "sent", "headers", "first", "last", "ended")
DURATIONS = ("ttft", "schedule_ttft", "itl", "tpot", "e2e", "largest_stall", "lag")
COUNTS = (
    "prompt_tokens",
    "expected_prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "max_tokens",
    "first_chunk_tokens",
)
COLUMNS: dict[str, str] = {
    "scenario": "Name of the scenario.",
    "api": "`chat` or `completions`.",
    "worker": "Process that sent it.",
    "index": "Number of the request in the run. A process of N sends every N-th one.",
    "request_id": "What the server calls it (`x-request-id`).",
    "measured": "1 inside the measured window, 0 in the warm-up or the cool-down.",
    "good": "1 when it completed and met every latency objective itself, 0 when not; empty without objectives.",
    "status": "HTTP status; 0 where no answer came.",
    "error": "Kind of the error; empty for a completed request.",
    "detail": "The error in words.",
    **{f"{name}_at_ms": f"Moment `{name}`." for name in MOMENTS},
    **{f"{name}_ms": f"Its `{name}`, as in `summary.json`." for name in DURATIONS},
    "prompt_tokens": "As the server counted them.",
    "expected_prompt_tokens": "As the workload meant them.",
    "cached_tokens": "Prompt tokens from the prefix cache.",
    "output_tokens": "Output tokens.",
    "max_tokens": "Limit that was asked for.",
    "first_chunk_tokens": "Tokens in the first chunk.",
    "token_source": "Where output tokens were counted: `usage`, `continuous_usage` or `chunks`.",
    "gaps_ms": "Gap before each further chunk, separated by spaces; `12.3*4` is a gap before a chunk of 4 tokens.",
}
HEALTH_COLUMNS: dict[str, str] = {
    "worker": "Process.",
    "t_ms": "End of the second, since the start of the run.",
    "cpu_share": "CPU time as a share of one core.",
    "loop_lag_ms": "The most by which the event loop woke up late.",
    "in_flight": "Requests sent and not ended, at that moment.",
    "dispatched": "Requests sent in that second.",
}


def write_requests(path: Path, run: RunData, objectives: Sequence[Objective]) -> None:
    """One row for each request, in the order of ``run.records``."""
    measured = {id(record) for record in run.measured()}
    rows = (_row(record, id(record) in measured, objectives) for record in run.records)
    _write(path, COLUMNS, rows)


def write_health(path: Path, health: Iterable[HealthSample]) -> None:
    """One row for each process and second."""
    rows = (
        [one.worker, _ms(one.t), round(one.cpu_share, 4), _ms(one.loop_lag_s), one.in_flight, one.dispatched]
        for one in health
    )
    _write(path, HEALTH_COLUMNS, rows)


def read_requests(path: Path) -> list[Record]:
    """The records of a ``requests.csv``. Raises LoadTestError for a file that ``write_requests`` did not make."""
    return _read(path, COLUMNS, _record)


def read_health(path: Path) -> list[HealthSample]:
    """The samples of a ``health.csv``. Raises LoadTestError for a file that ``write_health`` did not make."""
    return _read(path, HEALTH_COLUMNS, _sample)


def _row(record: Record, measured: bool, objectives: Sequence[Objective]) -> list[Any]:
    values: dict[str, Any] = {name: getattr(record, name) for name in (*COUNTS, "scenario", "api", "worker", "index")}
    values |= {name: getattr(record, name) for name in ("request_id", "status", "error", "detail", "token_source")}
    values |= {f"{name}_at_ms": _ms(getattr(record, name)) for name in MOMENTS}
    for name in DURATIONS:
        latency = own_latency(record, name)
        values[f"{name}_ms"] = None if latency is None else round(latency, 3)
    values["measured"] = int(measured)
    values["good"] = int(meets_all(record, objectives)) if objectives else None
    values["gaps_ms"] = " ".join(_gap(gap, tokens) for gap, tokens in record.gaps)
    return [values[name] for name in COLUMNS]


def _gap(seconds: float, tokens: int) -> str:
    return f"{seconds * 1000:.3f}" if tokens == 1 else f"{seconds * 1000:.3f}*{tokens}"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _write(path: Path, columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def _read(path: Path, columns: Iterable[str], make: Callable[[dict[str, str]], Row]) -> list[Row]:
    # The gaps of one long answer exceed what the module reads by default.
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, restval="")
        if tuple(reader.fieldnames or ()) != tuple(columns):
            raise LoadTestError(f"{path} has other columns than this version writes: run the load test again")
        try:
            return [make(row) for row in reader]
        except (ValueError, TypeError, csv.Error) as error:
            raise LoadTestError(f"line {reader.line_num} of {path} cannot be read: {error}") from None


def _record(row: dict[str, str]) -> Record:
    source: TokenSource = row["token_source"]  # type: ignore[assignment]
    if source not in get_args(TokenSource):
        raise ValueError(f"unknown token_source {source!r}")
    moments = {name: _seconds(row[f"{name}_at_ms"]) for name in MOMENTS}
    sent, ended = moments.pop("sent"), moments.pop("ended")
    if sent is None or ended is None:
        raise ValueError("sent_at_ms and ended_at_ms must be numbers")
    return Record(
        scenario=row["scenario"],
        api=row["api"],
        worker=int(row["worker"]),
        index=int(row["index"]),
        sent=sent,
        ended=ended,
        **moments,
        status=int(row["status"]),
        error=ErrorKind(row["error"]) if row["error"] else None,
        detail=row["detail"],
        prompt_tokens=_count(row["prompt_tokens"]),
        output_tokens=int(row["output_tokens"]),
        token_source=source,
        gaps=[_read_gap(text) for text in row["gaps_ms"].split()],
        first_chunk_tokens=int(row["first_chunk_tokens"]),
        max_tokens=int(row["max_tokens"]),
        expected_prompt_tokens=_count(row["expected_prompt_tokens"]),
        cached_tokens=_count(row["cached_tokens"]),
        request_id=row["request_id"],
        text=None,
    )


def _sample(row: dict[str, str]) -> HealthSample:
    return HealthSample(
        worker=int(row["worker"]),
        t=_finite(row["t_ms"]) / 1000,
        cpu_share=_finite(row["cpu_share"]),
        loop_lag_s=_finite(row["loop_lag_ms"]) / 1000,
        in_flight=int(row["in_flight"]),
        dispatched=int(row["dispatched"]),
    )


def _read_gap(text: str) -> tuple[float, int]:
    milliseconds, _, tokens = text.partition("*")
    return _finite(milliseconds) / 1000, int(tokens or 1)


def _seconds(text: str) -> float | None:
    return _finite(text) / 1000 if text else None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is no measured value")
    return number


def _count(text: str) -> int | None:
    return int(text) if text else None
