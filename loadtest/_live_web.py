"""The live figures in Locust's web UI: a tab with a table, a CSV link, and a page with charts."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

from flask import Blueprint, Response, request

from loadtest import _plotly
from loadtest._chart import Chart
from loadtest._live import ALL, BIN_S, KEPT_BINS, Live
from loadtest._live_figures import COLUMNS, charts, described, rows
from loadtest._report import template
from loadtest._server_metrics import Sample

KEY = "llm"
FOREVER = "public, max-age=31536000, immutable"


def attach(environment: Any, live: Live, server: Callable[[float], Sequence[Sample]] = lambda _: ()) -> None:
    """Add the tab, the link and the page to the web UI of a Locust environment; call it when Locust fires ``init``.

    ``server`` gives the server's samples on the time axis that begins at the given ``perf_counter`` time.
    """
    ui = environment.web_ui
    if ui is None:
        return
    base = (getattr(environment.parsed_options, "web_base_path", None) or "").rstrip("/")
    ui.template_args |= {
        "extended_tabs": [{"title": "LLM", "key": KEY}],
        "extended_tables": [
            {"key": KEY, "structure": [{"key": key, "title": title} for key, title in COLUMNS.items()]}
        ],
        "extended_csv_files": [
            {"href": f"./{KEY}/figures.csv", "title": "Download LLM figures CSV"},
            {"href": f"./{KEY}/", "title": "LLM charts, live"},
        ],
    }
    ui.app.register_blueprint(_blueprint(base, ui.auth_required_if_enabled, live, server))
    ui.app.after_request(lambda response: _extended(response, base, live))


def _blueprint(
    base: str, guarded: Callable[[Any], Any], live: Live, server: Callable[[float], Sequence[Sample]]
) -> Blueprint:
    blueprint = Blueprint("llm", __name__, url_prefix=f"{base}/{KEY}")

    @blueprint.route("/")
    @guarded
    def page() -> str:
        # With a sample, so that there is a place for the server's charts; the figures come later.
        shown = charts(live, ALL, [{"source": "", "t": 0.0, "running": 0, "waiting": 0, "kv_usage": 0}])
        text: str = template("live.html").render(columns=COLUMNS, charts=shown, note=described(), all_requests=ALL)
        return text

    @blueprint.route("/figures.json")
    @guarded
    def figures() -> dict[str, Any]:
        scenario = request.args.get("scenario", ALL)
        kept = BIN_S * KEPT_BINS
        end = max(60.0, (live.newest + 1) * BIN_S)
        start = max(0.0, end - kept)
        samples = [sample for sample in server(live.origin) if start <= sample["t"] <= end]
        shown: list[Chart] = charts(live, scenario, samples)
        return {
            "rows": rows(live),
            "scenarios": [ALL, *live.scenarios],
            "range": [start, end],
            "window": [start, end],
            "charts": {chart.id: chart.to_json() for chart in shown},
        }

    @blueprint.route("/figures.csv")
    @guarded
    def table() -> Response:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writerow(COLUMNS)
        writer.writerows(rows(live))
        disposition = "attachment; filename=llm-figures.csv"
        return Response(text.getvalue(), mimetype="text/csv", headers={"content-disposition": disposition})

    @blueprint.route("/plotly.js")
    @guarded
    def plotly() -> Response:
        return Response(_plotly.script(), mimetype="text/javascript", headers={"cache-control": FOREVER})

    return blueprint


def _extended(response: Response, base: str, live: Live) -> Response:
    """Put the table's rows into the statistics that the UI polls, and a link to the charts into its page."""
    if request.path == f"{base}/stats/requests" and response.is_json:
        response.set_data(json.dumps({**response.get_json(), "extended_stats": [{"key": KEY, "data": rows(live)}]}))
    elif request.path == f"{base}/" and response.mimetype == "text/html":
        link = template("link.html").render(key=KEY)
        response.set_data(response.get_data(as_text=True).replace("</body>", f"{link}</body>"))
    return response
