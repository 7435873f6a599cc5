"""The figures of a set of requests: counts, latencies, throughput and goodput over the measured window."""

import math
from collections import Counter
from collections.abc import Sequence

from loadtest._request import ErrorKind, Record
from loadtest._run_data import RunData
from loadtest._samples import Samples, samples_of, tokens_on_time, tokens_within
from loadtest._schema import Distribution, Figures, Goodput, Metrics, Requests, Throughput, Tokens
from loadtest._slo import LATENCIES, QUANTILES, Objective, failed, meets_all
from loadtest._statistics import mean, percentiles

MOST_DETAILS = 10


def figures(run: RunData, objectives: Sequence[Objective]) -> Figures:
    """All figures of a run. For one scenario, give the run with that scenario's records."""
    measured = run.measured()
    return Figures(
        requests=_requests(measured, excluded=len(run.records) - len(measured)),
        tokens=_tokens(measured),
        metrics=Metrics(**{name: distribution(samples_of(measured, name)) for name in LATENCIES}),
        throughput=_throughput(run),
        goodput=_goodput(measured, run.window_s, objectives) if objectives else None,
    )


def distribution(samples: Samples) -> Distribution:
    """Mean, percentiles and largest value of a latency, in milliseconds."""
    values = samples.values * 1000
    quantiles = percentiles(values, list(QUANTILES.values()), samples.weights)
    return Distribution(
        count=samples.count,
        mean=_known(mean(values, samples.weights)),
        **{name: _known(value) for name, value in zip(QUANTILES, map(float, quantiles), strict=True)},
        max=float(values.max()) if len(values) else None,
    )


def _requests(records: Sequence[Record], excluded: int) -> Requests:
    failures = [record for record in records if failed(record)]
    cancelled = sum(record.error == ErrorKind.CANCELLED for record in records)
    counted = len(records) - cancelled
    details = Counter(f"{record.error}: {record.detail}" for record in failures)
    return Requests(
        sent=len(records),
        completed=counted - len(failures),
        failed=len(failures),
        cancelled=cancelled,
        excluded=excluded,
        error_rate=len(failures) / counted if counted else None,
        errors=dict(Counter(str(record.error) for record in failures).most_common()),
        details=dict(details.most_common(MOST_DETAILS)),
    )


def _tokens(records: Sequence[Record]) -> Tokens:
    known = [record for record in records if record.cached_tokens is not None and record.prompt_tokens]
    cached = sum(record.cached_tokens or 0 for record in known)
    prompt_of_known = sum(record.prompt_tokens or 0 for record in known)
    return Tokens(
        prompt=sum(record.prompt_tokens or 0 for record in records),
        output=sum(record.output_tokens for record in records),
        cached=cached if known else None,
        prefix_hit_rate=cached / prompt_of_known if known else None,
        sources=dict(Counter(record.token_source for record in records if record.first is not None).most_common()),
    )


def _throughput(run: RunData) -> Throughput:
    """Counted by when it happened, not by when the request was sent, so that it agrees with the server's counters."""
    start, end = run.window
    completed = [record for record in run.records if record.error is None and start <= record.ended <= end]
    prefilled = [record for record in run.records if record.first is not None and start <= record.first <= end]
    output = sum(tokens_within(record, run.window) for record in run.records)
    return Throughput(
        requests_per_s=per_second(len(completed), run.window_s),
        prompt_tokens_per_s=per_second(sum(record.prompt_tokens or 0 for record in prefilled), run.window_s),
        output_tokens_per_s=per_second(output, run.window_s),
        tokens_per_s_per_user=per_second(
            sum(record.output_tokens for record in completed), sum(record.e2e for record in completed)
        ),
    )


def _goodput(records: Sequence[Record], window_s: float, objectives: Sequence[Objective]) -> Goodput:
    good = sum(meets_all(record, objectives) for record in records)
    counted = sum(record.error != ErrorKind.CANCELLED for record in records)
    return Goodput(
        requests_per_s=per_second(good, window_s),
        share=good / counted if counted else None,
        tokens_on_time=_on_time(records, objectives),
    )


def _on_time(records: Sequence[Record], objectives: Sequence[Objective]) -> float | None:
    bounds = {name: bound for name in LATENCIES if (bound := tightest(objectives, name)) is not None}
    pace = bounds.get("itl") or bounds.get("tpot")
    tokens = sum(record.counted_tokens for record in records)
    if not tokens or not pace or "ttft" not in bounds:
        return None
    return sum(tokens_on_time(record, bounds["ttft"] / 1000, pace / 1000) for record in records) / tokens


def tightest(objectives: Sequence[Objective], name: str) -> float | None:
    """The smallest bound on one latency, in milliseconds; None without any."""
    bounds = [one.bound for one in objectives if one.latency is not None and one.latency[0] == name]
    return min(bounds, default=None)


def per_second(amount: float, seconds: float) -> float | None:
    """A rate; None over no time."""
    return amount / seconds if seconds > 0 else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
