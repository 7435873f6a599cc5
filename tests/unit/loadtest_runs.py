"""Runs made up for tests: records of a server that answers as told, and the client's health beside them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from loadtest._request import ErrorKind, Record
from loadtest._run_data import HealthSample, RunData


def record(**changes: Any) -> Record:
    """A completed request: TTFT 0.1 s, 11 tokens with gaps of 20 ms, E2E 0.3 s."""
    sent = changes.pop("sent", 1.0)
    ttft, gap, tokens = changes.pop("ttft", 0.1), changes.pop("gap", 0.02), changes.pop("tokens", 11)
    lag = changes.pop("lag", 0.0)
    gaps = [(gap, 1)] * (tokens - 1)
    first = sent + ttft
    ended = first + gap * (tokens - 1)
    values: dict[str, Any] = {
        "scenario": "chat",
        "api": "chat",
        "worker": 0,
        "index": 0,
        "intended": sent - lag,
        "sent": sent,
        "headers": sent + ttft / 2,
        "first": first,
        "last": ended,
        "ended": ended,
        "status": 200,
        "error": None,
        "detail": "",
        "prompt_tokens": 100,
        "output_tokens": tokens,
        "token_source": "usage",
        "gaps": gaps,
        "first_chunk_tokens": 1,
        "max_tokens": tokens,
        "expected_prompt_tokens": 100,
        "cached_tokens": 0,
        "request_id": "r-1",
        "text": None,
    }
    return Record(**(values | changes))


def failure(kind: ErrorKind, sent: float = 1.0, seconds: float = 0.01, **changes: Any) -> Record:
    """A request that failed before its first token."""
    values: dict[str, Any] = {
        "first": None,
        "last": None,
        "headers": None,
        "ended": sent + seconds,
        "status": 500 if kind == ErrorKind.STATUS else 0,
        "error": kind,
        "detail": "made up",
        "prompt_tokens": None,
        "output_tokens": 0,
        "token_source": "chunks",
        "gaps": [],
        "first_chunk_tokens": 0,
        "cached_tokens": None,
    }
    return record(sent=sent, **(values | changes))


def run_of(records: Sequence[Record], **changes: Any) -> RunData:
    """A run of 60 s at 10 requests/s, of which the first and the last 5 s do not count, with a healthy client."""
    values: dict[str, Any] = {
        "records": list(records),
        "health": [],
        "started_wall": 1_700_000_000.0,
        "duration_s": 60.0,
        "warmup_s": 5.0,
        "cooldown_s": 5.0,
        "arrivals": {"kind": "poisson", "rate": 10.0, "seed": 7},
        "workload": {"name": "chat", "hash": "abc", "parameters": {"output_tokens": 11}},
        "requested_rate": 10.0,
        "users": None,
        "processes": 1,
        "host": "http://server:8000",
        "model": "demo",
        "seed": 7,
        "nonce": "n-1",
        "command": "locust -f loadtest/",
        "versions": {"locust": "2.47.0"},
    }
    run = RunData(**(values | changes))
    if "health" not in changes:
        run.health = health_of(run)
    return run


def steady_run(
    seed: int = 7, make: Callable[[float], Record] | None = None, rate: float = 10.0, **changes: Any
) -> RunData:
    """Poisson arrivals at ``rate``; ``make`` turns a send time into a record."""
    random = np.random.default_rng(seed)
    times = np.cumsum(random.exponential(1 / rate, size=int(rate * 80)))
    send = make or (lambda sent: record(sent=sent, ttft=float(random.gamma(4, 0.025))))
    records = [send(float(time)) for time in times if time <= changes.get("duration_s", 60.0)]
    return run_of(records, requested_rate=rate, seed=seed, **changes)


def health_of(run: RunData, cpu: float = 0.2, lag: float = 0.001) -> list[HealthSample]:
    """One sample a second of one process that counts its requests in flight rightly."""
    seconds = np.arange(1.0, run.duration_s + 1)
    sent = np.array([one.sent for one in run.records])
    ended = np.array([one.ended for one in run.records])
    return [
        HealthSample(0, t, cpu, lag, int(((sent <= t) & (ended > t)).sum()), int(((sent <= t) & (sent > t - 1)).sum()))
        for t in map(float, seconds)
    ]
