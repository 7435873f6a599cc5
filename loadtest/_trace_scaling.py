"""A trace made to fit: a part of it, another rate, shorter prompts and answers."""

from collections.abc import Sequence
from dataclasses import replace

from loadtest._errors import LoadTestError
from loadtest._trace_formats import Trace, TraceRequest


def cut(trace: Trace, start_s: float, duration_s: float | None) -> Trace:
    """The requests that arrive from ``start_s`` on, for less than ``duration_s``. Raises LoadTestError without any."""
    end_s = float("inf") if duration_s is None else start_s + duration_s
    kept = [request for request in trace.requests if start_s <= request.at_s < end_s]
    return _of(trace, kept, f"from {start_s:g} s on: the trace lasts {trace.duration_s:g} s")


def within(trace: Trace, most_tokens: int) -> Trace:
    """Without the requests whose prompt and answer together are longer. Raises LoadTestError where none is left."""
    kept = [request for request in trace.requests if request.prompt_tokens + request.output_tokens <= most_tokens]
    return _of(trace, kept, f"of at most {most_tokens} tokens: give a smaller --scale-tokens")


def _of(trace: Trace, requests: Sequence[TraceRequest], which: str) -> Trace:
    if not requests:
        raise LoadTestError(f"the trace has no request {which}")
    start = requests[0].at_s
    return replace(trace, requests=[replace(one, at_s=round(one.at_s - start, 6)) for one in requests])


def at_rate(trace: Trace, rate: float) -> Trace:
    """The same arrivals faster or slower, so that their mean rate is ``rate`` requests/s; their pattern stays.

    Raises LoadTestError for a trace that has no rate, because all its requests arrive at once.
    """
    own = mean_rate(trace)
    if own is None:
        raise LoadTestError("the trace has no rate that could be changed: all its requests arrive at once")
    return replace(trace, requests=[replace(one, at_s=round(one.at_s * own / rate, 6)) for one in trace.requests])


def mean_rate(trace: Trace) -> float | None:
    """Requests/s: (requests − 1) / time from the first to the last. None where all arrive at once."""
    return (len(trace.requests) - 1) / trace.duration_s if trace.duration_s else None


def scaled(trace: Trace, factor: float) -> Trace:
    """All lengths times ``factor``, at least 1 token each; blocks too, so that shared prefixes stay shared."""
    block = None if trace.block_tokens is None else _scaled(trace.block_tokens, factor)
    requests = [
        replace(
            one,
            prompt_tokens=_scaled(one.prompt_tokens, factor),
            output_tokens=_scaled(one.output_tokens, factor),
        )
        for one in trace.requests
    ]
    return replace(trace, requests=requests, block_tokens=block)


def _scaled(tokens: int, factor: float) -> int:
    return max(1, round(tokens * factor))
