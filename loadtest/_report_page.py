"""The words and tables of the report's page: headline figures, objectives, figures by scenario, causes, facts."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from loadtest._breaches import RULES, Breach
from loadtest._print import LABELS, amount, measured_value
from loadtest._report_server import server_notes
from loadtest._report_timeline import COLOURS
from loadtest._run_data import RunData
from loadtest._schema import (
    Client,
    Distribution,
    Figures,
    Goodput,
    Load,
    Metrics,
    ObjectiveResult,
    Requests,
    RunInfo,
    Summary,
    Throughput,
    Tokens,
)
from loadtest._server_series import ServerSeries
from loadtest._slo import QUANTILES
from loadtest._statistics import enough_samples
from loadtest._time_axis import TimeAxis

STATISTICS = ("mean", *QUANTILES, "max")
PARTS: dict[str, type[BaseModel]] = {
    "Load": Load,
    "Requests": Requests,
    "Tokens": Tokens,
    "Latencies": Metrics,
    "Percentiles": Distribution,
    "Throughput": Throughput,
    "Goodput": Goodput,
    "Client": Client,
}


@dataclass(frozen=True, slots=True)
class Tile:
    """A headline figure with what it means."""

    label: str
    value: str
    unit: str
    note: str


@dataclass(frozen=True, slots=True)
class Gauge:
    """An objective as a bar: positions in percent of its width."""

    result: ObjectiveResult
    value: str
    at: float | None
    bound: float
    low: float
    high: float


def page(
    run: RunData, summary: Summary, axis: TimeAxis, server: ServerSeries, missed: Sequence[Breach]
) -> dict[str, Any]:
    """What the template needs besides the charts."""
    return {
        "summary": summary,
        "tiles": list(tiles(summary)),
        "objectives": [gauge(result) for result in summary.objectives],
        "tables": _tables(summary),
        "causes": _causes(missed),
        "rules": [(str(cause), COLOURS[cause], text) for cause, text in RULES.items()],
        "server_notes": list(server_notes(server)),
        "token_check": token_check(run, server),
        "facts": list(_facts(summary.run)),
        "definitions": {title: _described(part) for title, part in PARTS.items()},
        "bin_s": axis.width,
        "amount": amount,
    }


def tiles(summary: Summary) -> Iterator[Tile]:
    """The headline figures."""
    load, total = summary.load, summary.total
    throughput, requests, metrics = total.throughput, total.requests, total.metrics
    asked = "" if load.requested_rate is None else f"of {amount(load.requested_rate)} asked for; "
    yield Tile("Requests", amount(load.achieved_rate), "/s", f"{asked}{requests.sent} in the window")
    yield Tile("Output", amount(throughput.output_tokens_per_s), "tokens/s", "arrived in the window / its length")
    pace = amount(throughput.tokens_per_s_per_user)
    yield Tile("Per user", pace, "tokens/s", "output tokens / time their requests took")
    for name, formula in (("ttft", "first − sent"), ("itl", "gap / tokens in chunk"), ("e2e", "ended − sent")):
        distribution: Distribution = getattr(metrics, name)
        tail = f"p95 {amount(distribution.p95)} ms, p99 {amount(distribution.p99)} ms"
        yield Tile(f"{LABELS[name]} median", amount(distribution.p50), "ms", f"{tail}; {formula}")
    failures = f"{requests.failed} of {requests.sent - requests.cancelled} failed"
    yield Tile("Errors", _share(requests.error_rate), "", failures)
    if total.goodput is not None:
        share = f"{_share(total.goodput.share)} of requests met every objective"
        yield Tile("Goodput", amount(total.goodput.requests_per_s), "/s", share)


def gauge(result: ObjectiveResult) -> Gauge:
    """An objective's value and interval beside its bound."""
    low, high = result.interval or (result.value or 0.0, result.value or 0.0)
    scale = 100 / (1.25 * max(result.bound, high, 1e-9))
    at = None if result.value is None else result.value * scale
    return Gauge(result, measured_value(result), at, result.bound * scale, low * scale, high * scale)


def _tables(summary: Summary) -> list[tuple[str, Figures, list[tuple[str, str, int, list[str]]]]]:
    """All requests, then each scenario where there are several: rows of label, formula, samples and cells."""
    parts = {"All requests": summary.total}
    if len(summary.scenarios) > 1:
        parts |= summary.scenarios
    return [(title, figures, list(_rows(figures))) for title, figures in parts.items()]


def _rows(figures: Figures) -> Iterator[tuple[str, str, int, list[str]]]:
    for name, label in LABELS.items():
        distribution: Distribution = getattr(figures.metrics, name)
        if not distribution.count:
            continue
        cells = []
        for statistic in STATISTICS:
            few = statistic in QUANTILES and not enough_samples(distribution.count, QUANTILES[statistic])
            cells.append(f"{amount(getattr(distribution, statistic))}{'*' if few else ''}")
        yield label, Metrics.model_fields[name].description or "", distribution.count, cells


def _causes(missed: Sequence[Breach]) -> list[tuple[str, str, int, str]]:
    """Cause, colour, requests, and the objectives that they missed."""
    rows = []
    for cause, count in Counter(breach.cause for breach in missed).most_common():
        texts = Counter(breach.objective.text for breach in missed if breach.cause == cause)
        rows.append((str(cause), COLOURS[cause], count, ", ".join(f"{text} ({n})" for text, n in texts.most_common())))
    return rows


def token_check(run: RunData, server: ServerSeries) -> list[tuple[str, int, int, str]]:
    """Tokens of the whole run as the client received them and by the server's counters, with the difference."""
    whole = (-1.0, float("inf"))
    seen = {
        "generation_tokens": ("Output tokens", sum(record.output_tokens for record in run.records)),
        "prompt_tokens": ("Prompt tokens", sum(record.prompt_tokens or 0 for record in run.records)),
    }
    rows = []
    for name, (label, client) in seen.items():
        counted = server.increase(name, whole)
        if counted:
            rows.append((label, client, round(counted), f"{client / counted - 1:+.2%}"))
    return rows


def _facts(info: RunInfo) -> Iterator[tuple[str, str]]:
    yield "Started", info.started
    yield "Length", f"{info.duration_s:g} s, of which {info.warmup_s:g} s warm-up and {info.cooldown_s:g} s cool-down"
    yield "Load", ", ".join(f"{name} {value}" for name, value in info.arrivals.items())
    yield "Users", "open loop" if info.users is None else str(info.users)
    yield "Processes", str(info.processes)
    yield "Workload", f"{info.workload.get('name', 'unnamed')} ({info.workload.get('hash', 'no hash')})"
    yield "Seed and nonce", f"{info.seed}, {info.nonce}"
    yield "Versions", ", ".join(f"{name} {version}" for name, version in info.versions.items())


def _described(part: type[BaseModel]) -> list[tuple[str, str]]:
    return [(name, field.description or "") for name, field in part.model_fields.items()]


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.2%}"
