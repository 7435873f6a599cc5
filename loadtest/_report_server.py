"""The charts of the server's own state on the run's time axis, and what must be said about where it came from."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from loadtest._chart import Chart, Span, Trace, numbers
from loadtest._report_moments import moments, tokens
from loadtest._run_data import RunData
from loadtest._server_series import Series, ServerSeries
from loadtest._time_axis import TimeAxis

MOST_REPLICAS = 12
"""Replicas that get a line of their own."""


def server_charts(run: RunData, axis: TimeAxis, server: ServerSeries, spans: Sequence[Span]) -> list[Chart]:
    """Every chart for which the server gave a figure; the tokens per second also without it."""
    made = [
        _requests(run, axis, server),
        *(make(axis, server) for make in (_kv, _queue_time, _prefix_hits, _preemptions, _rejections, _replicas)),
        _tokens(run, axis, server),
        _prompt_tokens(axis, server),
    ]
    return [replace(chart, spans=list(spans)) for chart in made if chart is not None]


def _requests(run: RunData, axis: TimeAxis, server: ServerSeries) -> Chart | None:
    running, waiting = server.gauge("running"), server.gauge("waiting")
    if not running.known:
        return None
    client = axis.in_flight(moments(run.records, "sent"), moments(run.records, "ended"))
    return Chart(
        id="running",
        title="Requests in the server",
        note="Running and waiting as the server counts them (mean of the samples in each bin, summed over replicas), "
        "and in flight as the client saw it (time average). In flight above running + waiting is a queue that the "
        "engine does not see.",
        y_title="requests",
        x=numbers(axis.middles),
        traces=[
            Trace("running", "line", _means(axis, running), "server"),
            Trace("waiting", "area", _means(axis, waiting), "queue"),
            Trace("in flight (client)", "dashed", numbers(client), "client"),
        ],
    )


def _kv(axis: TimeAxis, server: ServerSeries) -> Chart | None:
    if not server.gauge("kv_usage").known:
        return None
    names = server.replicas[:MOST_REPLICAS]
    several = len(names) > 1
    traces = [
        Trace(server.label(name), "line", _means(axis, server.gauge("kv_usage", name)), f"series{1 + number % 6}")
        for number, name in enumerate(names)
    ]
    mean = Trace("mean of the replicas", "area", _means(axis, server.gauge("kv_usage")), "server")
    return Chart(
        id="kv",
        title="KV cache in use",
        note="Share of the KV-cache blocks in use, mean of the samples in each bin. At 100 % the engine preempts.",
        y_title="of the cache",
        x=numbers(axis.middles),
        traces=[mean, *traces] if several else [mean],
        share=True,
    )


def _queue_time(axis: TimeAxis, server: ServerSeries) -> Chart | None:
    queue, wait = server.share("queue_time_sum", "queue_time_count"), server.gauge("estimated_wait_s")
    traces = []
    if queue.known:
        scaled = Series(queue.t, queue.values * 1000)
        traces.append(Trace("queue time", "line", _means(axis, scaled), "queue"))
    if wait.known:
        scaled = Series(wait.t, wait.values * 1000)
        traces.append(Trace("wait that the gateway estimates", "dashed", _means(axis, scaled), "server"))
    if not traces:
        return None
    return Chart(
        id="queue",
        title="Time in the server's queue",
        note="Increase of the queue-time histogram's sum / increase of its count between two samples: the mean of the "
        "requests that the engine finished then, which may have queued much earlier.",
        y_title="ms",
        x=numbers(axis.middles),
        traces=traces,
    )


def _prefix_hits(axis: TimeAxis, server: ServerSeries) -> Chart | None:
    hits = server.share("prefix_hits", "prefix_queries")
    if not hits.known:
        return None
    return Chart(
        id="prefix",
        title="Prefix-cache hits",
        note="Increase of hit tokens / increase of queried tokens between two samples of the server.",
        y_title="of the prompt tokens",
        x=numbers(axis.middles),
        traces=[Trace("hit rate", "area", _means(axis, hits), "server")],
        share=True,
    )


def _preemptions(axis: TimeAxis, server: ServerSeries) -> Chart | None:
    note = "Requests per second that lost their place in the KV cache and are computed again, by the server's counter."
    return _counter(axis, server, "preemptions", "Preemptions", note)


def _rejections(axis: TimeAxis, server: ServerSeries) -> Chart | None:
    note = "Requests per second that the server's gateway refused, by its own counter."
    return _counter(axis, server, "rejections", "Rejections", note)


def _counter(axis: TimeAxis, server: ServerSeries, name: str, title: str, note: str) -> Chart | None:
    """A counter's rate; None where it never moved: its table row says so."""
    rate = server.rate(name)
    if not (rate.known and np.nansum(rate.values) > 0):
        return None
    bars = Trace(name, "bars", _means(axis, rate), "failed")
    return Chart(name, title, note, "per second", numbers(axis.middles), [bars])


def _replicas(axis: TimeAxis, server: ServerSeries) -> Chart | None:
    if len(server.replicas) < 2 or server.seen_in_turn:
        return None
    return Chart(
        id="replicas",
        title="Replicas",
        note="Replicas that each round of samples saw: the largest number in each bin.",
        y_title="replicas",
        x=numbers(axis.middles),
        traces=[
            Trace(
                "seen", "area", numbers(axis.largest(server.replica_count().t, server.replica_count().values)), "server"
            )
        ],
    )


def _tokens(run: RunData, axis: TimeAxis, server: ServerSeries) -> Chart:
    seen = tokens(run.records)
    traces = [Trace("arrived at the client", "line", numbers(axis.rates(seen.t, seen.values)), "client")]
    counted = server.rate("generation_tokens")
    if counted.known:
        traces.append(Trace("by the server's counter", "dashed", _means(axis, counted), "server"))
    return Chart(
        id="tokens",
        title="Output tokens per second",
        note="Output tokens by the moment they arrived at the client, and the increase of the server's counter.",
        y_title="tokens/s",
        x=numbers(axis.middles),
        traces=traces,
    )


def _prompt_tokens(axis: TimeAxis, server: ServerSeries) -> Chart | None:
    counted = server.rate("prompt_tokens")
    if not counted.known:
        return None
    note = "Increase of the server's counter: prompt tokens that were read."
    trace = Trace("by the server's counter", "line", _means(axis, counted), "prefill")
    return Chart("prompt-tokens", "Prompt tokens per second", note, "tokens/s", numbers(axis.middles), [trace])


def _means(axis: TimeAxis, series: Series) -> list[float | None]:
    return numbers(axis.sampled(series.t, series.values))


def server_notes(server: ServerSeries) -> Iterator[str]:
    """What a reader must know about where the server's figures came from."""
    if not server.replicas:
        why = f": {server.errors[0]['source']}: {server.errors[0]['error']}" if server.errors else ""
        yield (
            f"The server's own metrics were not seen{why}. Charts of its state are missing, and a late first token "
            "cannot be put down to the queue or to the prefill."
        )
        return
    yield f"Seen: {', '.join(server.replicas)}."
    if server.seen_in_turn:
        yield (
            "One address answered for several replicas in turn, so totals are those of one replica at a time. Name "
            "each replica's own page with --server-metrics to see them all."
        )
    if server.errors:
        first = server.errors[0]
        yield (
            f"{len(server.errors)} reads failed, the first after {first['t']:g} s: {first['error']} "
            f"({first['source']})."
        )
