"""What a chart shows, as plain data: the page's script gives it colours and draws it with Plotly."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from loadtest._statistics import Array

DIGITS = 4
"""Significant digits of a value in the page: more than a pixel shows, and a third of the size."""
Numbers = list[float | None]


@dataclass(frozen=True, slots=True)
class Trace:
    """One series. ``quantiles``: ``y`` is the median, ``upper`` the 90th and the 99th percentile above it."""

    name: str
    kind: Literal["line", "dashed", "area", "bars", "steps", "quantiles"]
    y: Numbers
    colour: str
    """Name of a colour of the page's style sheet."""
    upper: list[Numbers] = field(default_factory=list)
    x: Numbers | None = None
    """Where it differs from the chart's."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the x axis that is shaded."""

    start: float
    end: float
    colour: str


@dataclass(frozen=True, slots=True)
class Bound:
    """An objective's bound, drawn as a line across."""

    at: float
    label: str
    axis: Literal["x", "y"] = "y"


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart with the words beside it."""

    id: str
    title: str
    note: str
    """What is shown, exactly: the formula, and by which moment it is put on the time axis."""
    y_title: str
    x: Numbers
    traces: list[Trace]
    x_unit: str = "s"
    time: bool = True
    """On the run's time axis, which all such charts share."""
    log_x: bool = False
    share: bool = False
    """Values are shares from 0 to 1, shown as percentages."""
    stacked: bool = False
    spans: list[Span] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)
    variants: dict[str, list[Trace]] = field(default_factory=dict)
    """Other traces that the reader may choose instead, by name."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def numbers(values: Array | Sequence[float] | Iterable[float]) -> Numbers:
    """Values for a page: rounded, and None for what is unknown."""
    return [float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None for value in map(float, values)]
