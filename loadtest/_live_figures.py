"""What the live page and Locust's extra table show: rows by scenario, and charts over the last ten minutes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from loadtest._chart import Chart, Trace, numbers
from loadtest._live import ALL, BIN_S, WINDOW_S, Live, Tally
from loadtest._server_metrics import Sample
from loadtest._server_series import Series, ServerSeries

COLUMNS: dict[str, str] = {
    "name": "Scenario",
    "requests": "# Requests",
    "rate": "Completed/s",
    "failed": "Failed %",
    "goodput": "Goodput/s",
    "ttft_p50": "TTFT p50 (ms)",
    "ttft_p95": "TTFT p95 (ms)",
    "itl_p50": "ITL p50 (ms)",
    "itl_p99": "ITL p99 (ms)",
    "e2e_p50": "E2E p50 (ms)",
    "tokens": "Tokens/s",
    "tokens_per_user": "Tokens/s per user",
    "lag_p99": "Lag p99 (ms)",
}
"""Key and title of each column of the table."""
NONE = "–"
DIGITS = 3
"""Significant digits: a percentile is no more exact than that."""
BAND = (0.5, 0.9, 0.99)
Row = dict[str, str | float]


def rows(live: Live) -> list[Row]:
    """One row for all requests and one for each scenario; figures of the last ``WINDOW_S`` seconds."""
    names = live.scenarios
    return [_row(live, name) for name in ([ALL, *names] if len(names) != 1 else names)]


def _row(live: Live, name: str) -> Row:
    tally, seconds = live.window(name)
    counts = tally.ended
    counted = counts["completed"] + counts["failed"]
    figures: dict[str, float | None] = {
        "requests": live.totals.total() if name == ALL else live.totals[name],
        "rate": _per(counts["completed"], seconds),
        "failed": _per(100 * counts["failed"], counted),
        "goodput": _per(counts["good"], seconds),
        "ttft_p50": tally.quantile_ms("ttft", 0.5),
        "ttft_p95": tally.quantile_ms("ttft", 0.95),
        "itl_p50": tally.quantile_ms("itl", 0.5),
        "itl_p99": tally.quantile_ms("itl", 0.99),
        "e2e_p50": tally.quantile_ms("e2e", 0.5),
        "tokens": _per(tally.tokens, seconds),
        "tokens_per_user": tally.tokens_per_user,
        "lag_p99": tally.quantile_ms("lag", 0.99),
    }
    shown = {key: NONE if value is None else float(f"{value:.{DIGITS}g}") for key, value in figures.items()}
    return {"name": name, **shown, "requests": int(figures["requests"] or 0)}


def _per(amount: float, whole: float) -> float | None:
    return amount / whole if whole else None


def charts(live: Live, scenario: str, server: Sequence[Sample]) -> list[Chart]:
    """The charts of the live page for one scenario, or for all requests."""
    t, tallies = live.by_bin(scenario)
    x = numbers(t)

    def quantiles(name: str) -> list[Trace]:
        median, *upper = ([_value(tally.quantile_ms(name, q)) for tally in tallies] for q in BAND)
        return [Trace("median", "quantiles", numbers(median), "client", upper=[numbers(each) for each in upper])]

    def line(name: str, of: Callable[[Tally], float | None], colour: str) -> Trace:
        return Trace(name, "line", numbers(_value(of(tally)) for tally in tallies), colour)

    return [
        Chart(
            "ttft", "Time to first token", "By the moment the request ended; p90 and p99.", "ms", x, quantiles("ttft")
        ),
        Chart(
            "itl", "Inter-token latency", "By the moment the tokens arrived; p90 and p99.", "ms", x, quantiles("itl")
        ),
        Chart(
            "tokens",
            "Output tokens per second",
            "Tokens of the requests that have ended, by the moment they arrived.",
            "tokens/s",
            x,
            [line("all users", lambda tally: tally.tokens / BIN_S, "client")],
        ),
        Chart(
            "user",
            "Tokens per second for each user",
            "Output tokens / seconds of the requests completed in each bin.",
            "tokens/s",
            x,
            [line("one user", lambda tally: tally.tokens_per_user, "client")],
        ),
        Chart(
            "requests",
            "Requests per second",
            "Completed, failed, and goodput: completed within every objective.",
            "requests/s",
            x,
            [
                line("completed", lambda tally: tally.ended["completed"] / BIN_S, "client"),
                line("goodput", lambda tally: tally.ended["good"] / BIN_S, "good"),
                line("failed", lambda tally: tally.ended["failed"] / BIN_S, "failed"),
            ],
        ),
        Chart("lag", "Dispatch lag", "How late the client sent (open loop); p90 and p99.", "ms", x, quantiles("lag")),
        *_server_charts(server),
    ]


def _server_charts(samples: Sequence[Sample]) -> list[Chart]:
    server = ServerSeries(samples)
    running, waiting, kv = (server.gauge(name) for name in ("running", "waiting", "kv_usage"))
    found = []
    if running.known:
        traces = [_trace("running", "line", running, "server"), _trace("waiting", "area", waiting, "queue")]
        note = "By the server's own count, summed over the replicas seen."
        found.append(Chart("running", "Requests in the server", note, "requests", [], traces))
    if kv.known:
        note = "Mean over the replicas seen."
        traces = [_trace("in use", "area", kv, "server")]
        found.append(Chart("kv", "KV cache in use", note, "of the cache", [], traces, share=True))
    return found


def _trace(name: str, kind: Any, series: Series, colour: str) -> Trace:
    return Trace(name, kind, numbers(series.values), colour, x=numbers(series.t))


def _value(value: float | None) -> float:
    return np.nan if value is None else value


def described() -> str:
    """What the table's figures are of."""
    return f"Requests that ended in the last {WINDOW_S:g} s; percentiles are at most 2.5 % off."
