"""The distributions of the measured requests: cumulative by scenario, and as histograms."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from loadtest._chart import Bound, Chart, Trace, numbers
from loadtest._run_data import RunData
from loadtest._samples import Samples, samples_of
from loadtest._slo import Objective
from loadtest._statistics import Array, percentiles

SHARES = (*np.linspace(0, 0.98, 50), *np.linspace(0.985, 0.999, 15), 1.0)
STEPS = 48
NARROW = 1.01
"""Values closer together than this factor are shown in the middle of a wider axis."""
SMALLEST_MS = 0.01
"""Where a logarithmic axis begins at the earliest."""
TITLES = {
    "ttft": "TTFT",
    "schedule_ttft": "TTFT from the schedule",
    "itl": "ITL",
    "tpot": "TPOT",
    "e2e": "E2E",
    "largest_stall": "Largest stall",
}


def distribution_charts(run: RunData, objectives: Sequence[Objective]) -> list[Chart]:
    """For each latency that was measured: its cumulative distribution by scenario, and its histogram."""
    measured = run.measured()
    scenarios = np.array([record.scenario for record in measured])
    charts = []
    for name, title in TITLES.items():
        samples = samples_of(measured, name)
        if not len(samples.values):
            continue
        values = np.maximum(samples.values * 1000, SMALLEST_MS)
        bounds = [Bound(one.bound, one.text, "x") for one in objectives if one.latency and one.latency[0] == name]
        curves = _curves(values, samples, scenarios[samples.owners])
        charts += [
            Chart(
                id=f"cdf-{name}",
                title=f"{title}: cumulative",
                note="Share of the measured samples that a value does not exceed.",
                y_title="share",
                x=[],
                traces=curves,
                x_unit="ms",
                time=False,
                log_x=True,
                share=True,
                bounds=bounds,
            ),
            _histogram(name, title, values, samples, bounds),
        ]
    return charts


def _curves(values: Array, samples: Samples, scenarios: NDArray[np.str_]) -> list[Trace]:
    everything = np.ones(len(values), dtype=bool)
    curves = [_curve("all requests", "ink", values, samples, everything)]
    names = np.unique(scenarios)
    if len(names) > 1:
        curves += [
            _curve(str(name), f"series{1 + number % 6}", values, samples, scenarios == name)
            for number, name in enumerate(names)
        ]
    return curves


def _curve(name: str, colour: str, values: Array, samples: Samples, chosen: NDArray[np.bool_]) -> Trace:
    weights = None if samples.weights is None else samples.weights[chosen]
    x = percentiles(values[chosen], SHARES, weights)
    return Trace(name, "line", numbers(SHARES), colour, x=numbers(x))


def _histogram(name: str, title: str, values: Array, samples: Samples, bounds: list[Bound]) -> Chart:
    low, high = float(values.min()), float(values.max())
    if high < low * NARROW:
        low, high = low / NARROW, high * NARROW
    edges = np.geomspace(low, high, STEPS + 1)
    counts, _ = np.histogram(values, edges, weights=samples.weights)
    return Chart(
        id=f"histogram-{name}",
        title=f"{title}: histogram",
        note="Measured samples by value, in steps that are equally wide on the logarithmic axis.",
        y_title="tokens" if name == "itl" else "requests",
        x=numbers(np.sqrt(edges[:-1] * edges[1:])),
        traces=[Trace("all requests", "steps", numbers(counts), "client")],
        x_unit="ms",
        time=False,
        log_x=True,
        bounds=bounds,
    )
