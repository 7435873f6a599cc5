"""The charts of what the client saw over time: latencies, missed objectives, arrivals, errors, the client itself."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from loadtest._breaches import Breach, Cause
from loadtest._chart import Bound, Chart, Numbers, Span, Trace, numbers
from loadtest._report_moments import Moments, gaps, latencies, moments
from loadtest._request import Record
from loadtest._run_data import RunData, due
from loadtest._samples import samples_of
from loadtest._slo import QUANTILES, Objective, failed
from loadtest._statistics import percentile
from loadtest._time_axis import TimeAxis

BAND = (0.5, 0.9, 0.99)
COLOURS: dict[str, str] = {
    Cause.CLIENT: "client",
    Cause.QUEUE: "queue",
    Cause.PREFILL: "prefill",
    Cause.EITHER: "queue",
    Cause.DECODE: "decode",
    "failed": "failed",
}
MS = 1000


def latency_charts(run: RunData, axis: TimeAxis, objectives: Sequence[Objective], spans: Sequence[Span]) -> list[Chart]:
    """TTFT and ITL as bands: median, p90 and p99 of each bin; by scenario where there are several."""
    names = np.array([record.scenario for record in run.records])
    charts = []
    for name, title, note in (
        (
            "ttft",
            "Time to first token",
            "TTFT = first − sent, of the requests sent in each bin: median, and bands up to p90 and p99.",
        ),
        (
            "itl",
            "Inter-token latency",
            "ITL = gap between chunks / tokens in the chunk, of the tokens that arrived in each bin, each token "
            "counted: median, and bands up to p90 and p99.",
        ),
    ):
        found = gaps(run.records) if name == "itl" else latencies(run.records, name)
        traces = {"all requests": _band(axis, found)}
        traces |= {str(one): _band(axis, found.of(names == one)) for one in np.unique(names)}
        chart = Chart(
            id=name,
            title=title,
            note=note,
            y_title="ms",
            x=numbers(axis.middles),
            traces=traces["all requests"],
            spans=list(spans),
            bounds=_bounds(objectives, name),
            variants=traces if len(traces) > 2 else {},
        )
        charts.append(chart)
    return charts


def _band(axis: TimeAxis, of: Moments) -> list[Trace]:
    median, *upper = axis.quantiles(of.t, of.values * MS, BAND, of.weights)
    return [Trace("median", "quantiles", numbers(median), "client", upper=[numbers(each) for each in upper])]


def _bounds(objectives: Sequence[Objective], name: str) -> list[Bound]:
    return [Bound(one.bound, one.text) for one in objectives if one.latency is not None and one.latency[0] == name]


def breach_spans(run: RunData, axis: TimeAxis, objectives: Sequence[Objective], found: Sequence[Breach]) -> list[Span]:
    """The bins in which a latency objective did not hold, by the commonest cause of the requests that missed it."""
    causes: dict[int, Counter[str]] = defaultdict(Counter)
    for number, breach in zip(axis.bin_of(np.array([one.record.sent for one in found])), found, strict=True):
        causes[int(number)][breach.cause] += 1
    records: dict[int, list[Record]] = defaultdict(list)
    for number, record in zip(axis.bin_of(moments(run.records, "sent")), run.records, strict=True):
        records[int(number)].append(record)
    spans: list[Span] = []
    for number in sorted(causes):
        if all(_held(records[number], objective) for objective in objectives):
            continue
        colour = COLOURS[causes[number].most_common(1)[0][0]]
        start, end = number * axis.width, (number + 1) * axis.width
        if spans and spans[-1].end == start and spans[-1].colour == colour:
            start = spans.pop().start
        spans.append(Span(start, end, colour))
    return spans


def _held(records: Sequence[Record], objective: Objective) -> bool:
    """Whether an objective held among some requests; one without samples, or that bounds no latency, did."""
    if objective.latency is None:
        return True
    name, statistic = objective.latency
    samples = samples_of(records, name)
    if not len(samples.values):
        return True
    values = samples.values * MS
    if statistic == "mean":
        return objective.holds(float(np.average(values, weights=samples.weights)))
    return objective.holds(percentile(values, QUANTILES.get(statistic, 1.0), samples.weights))


def breach_chart(run: RunData, axis: TimeAxis, found: Sequence[Breach]) -> Chart | None:
    """Requests that missed an objective or failed, by cause; None when there are none."""
    sent: dict[str, list[float]] = defaultdict(list)
    for breach in found:
        sent[breach.cause].append(breach.record.sent)
    for record in run.records:
        if failed(record):
            sent["failed"].append(record.sent)
    order = [*Cause, "failed"]
    traces = [
        Trace(name, "bars", numbers(axis.counts(np.array(sent[name]))), COLOURS[name]) for name in order if name in sent
    ]
    if not traces:
        return None
    return Chart(
        id="breaches",
        title="Requests that missed an objective, by cause",
        note="By the moment at which they were sent; each request once, for the objective it missed by the largest "
        "factor. The rules for the causes stand below.",
        y_title="requests",
        x=numbers(axis.middles),
        traces=traces,
        stacked=True,
    )


def load_charts(run: RunData, axis: TimeAxis, spans: Sequence[Span]) -> list[Chart]:
    """Arrivals as they were due, sent and completed; and, in an open loop, how late the client was."""
    records = run.records
    completed = np.array([record.ended for record in records if record.error is None])
    traces = [
        Trace("sent", "line", numbers(axis.rates(moments(records, "sent"))), "client"),
        Trace("completed", "line", numbers(axis.rates(completed)), "good"),
    ]
    if run.requested_rate is not None:
        was_due = np.array([due(record) for record in records])
        traces.insert(0, Trace("due", "dashed", numbers(axis.rates(was_due)), "muted"))
    charts = [
        Chart(
            id="arrivals",
            title="Arrivals and completions",
            note="Requests per second: due by the schedule, sent, and answered to the end.",
            y_title="requests/s",
            x=numbers(axis.middles),
            traces=traces,
            spans=list(spans),
        )
    ]
    if run.requested_rate is not None:
        lag = latencies(records, "lag")
        charts.append(
            Chart(
                id="lag",
                title="Dispatch lag",
                note="sent − intended: how late the client was, of the requests sent in each bin. Near zero, or the "
                "client was the bottleneck.",
                y_title="ms",
                x=numbers(axis.middles),
                traces=_band(axis, lag),
            )
        )
    return charts


def client_charts(run: RunData, axis: TimeAxis) -> list[Chart]:
    """CPU and loop lag of the processes that generated the load: the worst process of each second."""
    if not run.health:
        return []
    cpu = _worst(run, [sample.cpu_share for sample in run.health], axis)
    lag = _worst(run, [sample.loop_lag_s * MS for sample in run.health], axis)
    x = numbers(axis.middles)
    return [
        Chart(
            id="cpu",
            title="Client CPU",
            note="CPU time of the busiest load-generating process as a share of one core. Above 80 % the client "
            "begins to measure itself.",
            y_title="of a core",
            x=x,
            traces=[Trace("busiest process", "line", cpu, "client")],
            share=True,
        ),
        Chart(
            id="loop",
            title="Client loop lag",
            note="The most by which a process's event loop woke up late: a chunk may have been stamped that much late.",
            y_title="ms",
            x=x,
            traces=[Trace("worst process", "line", lag, "client")],
        ),
    ]


def _worst(run: RunData, values: Sequence[float], axis: TimeAxis) -> Numbers:
    """The largest value of all processes in each second; the mean of the seconds in each bin."""
    seconds: dict[int, float] = defaultdict(float)
    for sample, value in zip(run.health, values, strict=True):
        seconds[round(sample.t)] = max(seconds[round(sample.t)], value)
    t = np.array(list(seconds), dtype=np.float64) - 0.5
    return numbers(axis.sampled(t, np.array(list(seconds.values()))))


def error_chart(run: RunData, axis: TimeAxis) -> Chart | None:
    """Failed requests by kind; None when there are none."""
    ended: dict[str, list[float]] = defaultdict(list)
    for record in run.records:
        if failed(record):
            ended[str(record.error)].append(record.ended)
    if not ended:
        return None
    return Chart(
        id="errors",
        title="Errors over time",
        note="Failed requests by kind, at the moment at which they failed.",
        y_title="requests",
        x=numbers(axis.middles),
        traces=[
            Trace(kind, "bars", numbers(axis.counts(np.array(times))), f"series{1 + number % 6}")
            for number, (kind, times) in enumerate(sorted(ended.items()))
        ],
        stacked=True,
    )
