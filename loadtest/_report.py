"""``report.html``: one page about a run that needs no network, bounded in size whatever the run's length."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from loadtest import _plotly
from loadtest._breaches import breaches
from loadtest._chart import Chart
from loadtest._report_distributions import distribution_charts
from loadtest._report_page import page
from loadtest._report_server import server_charts
from loadtest._report_timeline import (
    breach_chart,
    breach_spans,
    client_charts,
    error_chart,
    latency_charts,
    load_charts,
)
from loadtest._run_data import RunData
from loadtest._schema import Summary
from loadtest._server_series import ServerSeries
from loadtest._slo import parse_all
from loadtest._time_axis import TimeAxis

REPORT = "report.html"


def write_report(run: RunData, summary: Summary, directory: Path) -> Path:
    """Write the page into a directory that exists; a page that is there is replaced. Raises OSError."""
    path = directory / REPORT
    path.write_text(render(run, summary), encoding="utf-8")
    return path


def render(run: RunData, summary: Summary) -> str:
    """The page: 2 MB of script, and 0.1 to 1 MB about the run. It holds no text of a prompt or an answer."""
    objectives = parse_all([result.text for result in summary.objectives])
    axis, server = TimeAxis.over(run), ServerSeries(run.server)
    missed = breaches(run, objectives, server)
    spans = breach_spans(run, axis, objectives, missed)
    sections: dict[str, Sequence[Chart | None]] = {
        "latencies": [*latency_charts(run, axis, objectives, spans), breach_chart(run, axis, missed)],
        "server": server_charts(run, axis, server, spans),
        "load": [*load_charts(run, axis, spans), error_chart(run, axis), *client_charts(run, axis)],
        "distributions": distribution_charts(run, objectives),
    }
    charts = {name: [chart for chart in section if chart is not None] for name, section in sections.items()}
    text: str = template("report.html").render(
        page=page(run, summary, axis, server, missed),
        sections=charts,
        data=_data(run, axis, charts),
        plotly=_plotly.packed(),
    )
    return text


def template(name: str) -> Template:
    """A template of this package. Everything put into it is escaped: error texts and names come from servers."""
    loader = PackageLoader("loadtest", "_templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.globals["source"] = lambda file: loader.get_source(environment, file)[0]
    return environment.get_template(name)


def _data(run: RunData, axis: TimeAxis, sections: dict[str, list[Chart]]) -> dict[str, Any]:
    return {
        "range": [0, axis.width * axis.bins],
        "bin_s": axis.width,
        "window": list(run.window),
        "charts": {chart.id: chart.to_json() for section in sections.values() for chart in section},
    }
