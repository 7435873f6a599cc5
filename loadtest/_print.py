"""The result of a run on the terminal: load, latencies, throughput, objectives, verdict."""

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtest._schema import Distribution, Figures, ObjectiveResult, Summary
from loadtest._slo import LATENCIES, QUANTILES, SHARES, parse
from loadtest._statistics import enough_samples

LABELS = {
    "ttft": "TTFT",
    "schedule_ttft": "TTFT from schedule",
    "itl": "ITL",
    "tpot": "TPOT",
    "e2e": "E2E",
    "largest_stall": "largest stall",
    "lag": "dispatch lag",
}
COLOURS = {"VALID": "green", "SUSPECT": "yellow", "INVALID": "red"}


def show(summary: Summary, console: Console) -> None:
    """Print the summary."""
    console.print(_latencies(summary))
    for line in (*_counts(summary), *_objectives(summary), *_verdict(summary)):
        console.print(line, highlight=False, soft_wrap=True)


def _latencies(summary: Summary) -> Table:
    table = Table(title=f"{escape(summary.run.model)} at {escape(summary.run.host)}", caption_justify="left")
    table.add_column("milliseconds")
    for name in ("samples", "mean", *QUANTILES, "max"):
        table.add_column(name, justify="right")
    too_few = False
    scenarios = summary.scenarios if len(summary.scenarios) > 1 else {}
    for title, figures in {"": summary.total, **scenarios}.items():
        if title:
            table.add_section()
            table.add_row(f"[bold]{escape(title)}[/]")
        for name in LATENCIES:
            distribution: Distribution = getattr(figures.metrics, name)
            if distribution.count:
                cells = list(_cells(distribution))
                too_few = too_few or any("*" in cell for cell in cells)
                table.add_row(LABELS[name], *cells)
    if too_few:
        table.caption = "* too few samples for this percentile"
    return table


def _cells(distribution: Distribution) -> Iterator[str]:
    yield f"{distribution.count}"
    for name in ("mean", *QUANTILES, "max"):
        value: float | None = getattr(distribution, name)
        star = "" if name not in QUANTILES or enough_samples(distribution.count, QUANTILES[name]) else "*"
        yield f"{amount(value)}{star}"


def amount(value: float | None) -> str:
    """A number with three digits or more; a dash where there is none."""
    if value is None:
        return "–"
    # Of the rounded value: 99.99 is 100, not 100.0.
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f}"


def _counts(summary: Summary) -> Iterator[str]:
    load, total = summary.load, summary.total
    requests, throughput = total.requests, total.throughput
    asked = "" if load.requested_rate is None else f" of {amount(load.requested_rate)} asked for"
    yield f"Requests: {requests.sent} sent ({amount(load.achieved_rate)}/s{asked}), {_ended(total)}"
    for text, count in requests.details.items():
        yield f"  {count} × {escape(text)}"
    yield (
        f"Throughput: {amount(throughput.requests_per_s)} requests/s, "
        f"{amount(throughput.output_tokens_per_s)} output tokens/s, "
        f"{amount(throughput.prompt_tokens_per_s)} prompt tokens/s, "
        f"{amount(throughput.tokens_per_s_per_user)} tokens/s for each user"
    )
    if total.goodput is not None:
        yield f"Goodput: {amount(total.goodput.requests_per_s)} requests/s ({_percent(total.goodput.share)})"
    sources = ", ".join(f"{source} ({count})" for source, count in total.tokens.sources.items())
    yield f"Tokens counted from: {sources or 'nothing'}; prefix-hit rate: {_percent(total.tokens.prefix_hit_rate)}"


def _ended(figures: Figures) -> str:
    requests = figures.requests
    return (
        f"{requests.completed} completed, {requests.failed} failed ({_percent(requests.error_rate)}), "
        f"{requests.cancelled} cancelled, {requests.excluded} more outside the window"
    )


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.2%}"


def _objectives(summary: Summary) -> Iterator[str]:
    for result in summary.objectives:
        colour, word = ("green", "met   ") if result.met else ("red", "missed")
        yield f"[{colour}]{word}[/] {escape(result.text)}: {measured_value(result)}"


def measured_value(result: ObjectiveResult) -> str:
    """The value of an objective with its unit and its interval, as text."""
    if result.value is None:
        return "nothing was measured"
    if result.metric in SHARES:
        return _percent(result.value)
    unit = " ms" if parse(result.text).latency else "/s"
    if result.interval is None:
        return f"{amount(result.value)}{unit}"
    low, high = result.interval
    return f"{amount(result.value)}{unit} (95 % interval {amount(low)} to {amount(high)})"


def _verdict(summary: Summary) -> Iterator[str]:
    yield f"[bold {COLOURS[summary.verdict.level]}]{summary.verdict.level}[/]"
    for reason in summary.verdict.reasons:
        yield f"  [{COLOURS[reason.level]}]{reason.level}[/] {escape(reason.text)}"
