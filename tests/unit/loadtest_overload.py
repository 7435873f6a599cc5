"""A run made up for the report's tests: two scenarios, a server that fills up half-way, late tokens and errors."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from loadtest._request import ErrorKind, Record
from loadtest._run_data import RunData
from tests.unit.loadtest_runs import failure, record, run_of

OBJECTIVES = ["ttft_p95<500ms", "itl_p99<60ms", "error_rate<2%"]
FULL = (50.0, 80.0)
"""Seconds in which requests wait for a slot."""
SLOW = (90.0, 100.0)
"""Seconds in which tokens come slowly."""


def overloaded_run(seed: int = 3, rate: float = 12.0, **changes: Any) -> RunData:
    """120 s, of which the first 10 and the last 5 do not count."""
    random = np.random.default_rng(seed)
    times = np.cumsum(random.exponential(1 / rate, size=int(rate * 160)))
    records = [_request(random, float(t)) for t in times if t <= 120]
    run = run_of(
        records,
        duration_s=120.0,
        warmup_s=10.0,
        requested_rate=rate,
        model="mistralai/Mistral-7B-Instruct-v0.1",
        command="locust -f loadtest/ --host http://server:8000 --arrivals poisson --rate 12 -t 120s --report run-1",
        **changes,
    )
    run.server = list(_server(run))
    return run


def _request(random: np.random.Generator, sent: float) -> Record:
    scenario = str(random.choice(["chat", "long-context"], p=[0.8, 0.2]))
    ttft = float(random.gamma(6, 0.02)) * (1.6 if scenario == "long-context" else 1)
    if FULL[0] < sent < FULL[1]:
        ttft += 0.04 * (sent - FULL[0]) * float(random.uniform(0.7, 1.1))
    gap = float(random.gamma(30, 0.001)) * (2.2 if SLOW[0] < sent < SLOW[1] else 1)
    if FULL[0] + 15 < sent < FULL[1] and random.random() < 0.1:
        return failure(ErrorKind.STATUS, sent=sent, scenario=scenario, status=429, detail="429 too many requests")
    tokens = int(random.integers(20, 120))
    return record(
        sent=sent,
        ttft=ttft,
        gap=gap,
        tokens=tokens,
        gaps=[(float(each), 1) for each in random.gamma(8, gap / 8, size=tokens - 1)],
        scenario=scenario,
        lag=float(random.exponential(0.001)),
    )


def _server(run: RunData) -> Iterator[dict[str, Any]]:
    sent = np.array([one.sent for one in run.records])
    ended = np.array([one.ended for one in run.records])
    produced = queued = finished = 0.0
    for t in map(float, range(124)):
        open_now = float(((sent <= t) & (ended > t)).sum())
        running = min(open_now, 32.0)
        produced += running * 30
        finished += running / 2
        full = FULL[0] < t < FULL[1] + 5
        queued += float(running / 2 * (0.03 * (t - FULL[0]) if full else 0.002))
        yield {
            "source": "http://server:8000/metrics",
            "replica": None,
            "t": t,
            "running": running,
            "waiting": max(0.0, open_now - 32) if full else 0.0,
            "kv_usage": min(1.0, running / 34),
            "preemptions": float(max(0, t - 65) // 4) if t < 80 else 3.0,
            "prefix_queries": 1000 * t + 1,
            "prefix_hits": 120 * t,
            "prompt_tokens": 1200 * t,
            "generation_tokens": produced,
            "queue_time_sum": queued,
            "queue_time_count": finished,
        }
