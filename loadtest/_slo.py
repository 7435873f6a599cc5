"""Objectives such as ``ttft_p95<500ms``: read, held against the figures, and held against one request (goodput)."""

import difflib
import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadtest._errors import LoadTestError
from loadtest._request import ErrorKind, Record
from loadtest._schema import Figures

LATENCIES = ("ttft", "schedule_ttft", "itl", "tpot", "e2e", "largest_stall", "lag")
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
STATISTICS = ("mean", *QUANTILES, "max")
SHARES = ("error_rate", "goodput_share")
RATES = ("goodput", "requests_per_s", "output_tokens_per_s", "tokens_per_s_per_user")
METRICS = (*(f"{name}_{statistic}" for name in LATENCIES for statistic in STATISTICS), *SHARES, *RATES)
SMALLER_IS_BETTER = ("error_rate",)
MILLISECONDS = {"ms": 1.0, "s": 1000.0}
FORM = re.compile(r"\s*([a-z0-9_]+)\s*(<=|>=|<|>)\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z%/]*)\s*", re.IGNORECASE)
COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Objective:
    """A bound on one figure, in the unit that the figure has in the summary: ms, a share from 0 to 1, or per second."""

    text: str
    metric: str
    compare: str
    bound: float

    @property
    def latency(self) -> tuple[str, str] | None:
        """(name, statistic) where it bounds a latency: ("ttft", "p95")."""
        name, _, statistic = self.metric.rpartition("_")
        return (name, statistic) if name in LATENCIES and statistic in STATISTICS else None

    def holds(self, value: float | None) -> bool:
        """Whether a value meets it. No value does not."""
        return value is not None and COMPARE[self.compare](value, self.bound)

    def allows(self, latency_ms: float | None) -> bool:
        """Whether one request meets it. A latency that the request cannot have (one token has no gap) does."""
        return latency_ms is None or COMPARE[self.compare](latency_ms, self.bound)


def parse(text: str) -> Objective:
    """Read one objective: METRIC, ``<``, ``<=``, ``>`` or ``>=``, and a bound with its unit. Raises LoadTestError."""
    form = FORM.fullmatch(text)
    if form is None:
        raise LoadTestError(f"{text!r} is no objective: write METRIC<BOUND, for example 'ttft_p95<500ms'")
    metric, compare, number, unit = form.group(1).lower(), form.group(2), form.group(3), form.group(4).lower()
    if metric not in METRICS:
        (nearest,) = difflib.get_close_matches(metric, METRICS, n=1, cutoff=0)
        raise LoadTestError(f"unknown metric {metric!r} in objective {text!r}: did you mean {nearest!r}?")
    wanted = "<" if metric in SMALLER_IS_BETTER or metric not in (*SHARES, *RATES) else ">"
    if compare[0] != wanted:
        raise LoadTestError(f"{text!r} bounds {metric} from the wrong side: write {metric}{wanted}{number}{unit}")
    return Objective(text.strip(), metric, compare, _bound(text, metric, number, unit))


def parse_all(texts: Sequence[str]) -> list[Objective]:
    """Read several objectives. Raises LoadTestError for the first wrong one."""
    return [parse(text) for text in texts]


def _bound(text: str, metric: str, number: str, unit: str) -> float:
    try:
        bound = float(number)
    except ValueError:
        raise LoadTestError(f"{number!r} in objective {text!r} is no number") from None
    if metric in SHARES:
        return _share(text, bound, unit)
    if metric in RATES:
        if unit not in ("", "/s"):
            raise LoadTestError(f"unknown unit {unit!r} in objective {text!r}: {metric} is per second, write no unit")
        factor = 1.0
    elif unit not in MILLISECONDS:
        raise LoadTestError(f"objective {text!r} needs a unit: write {metric}<{number}ms or {metric}<{number}s")
    else:
        factor = MILLISECONDS[unit]
    if not math.isfinite(bound):
        raise LoadTestError(f"{number!r} in objective {text!r} is too large")
    return bound * factor


def _share(text: str, bound: float, unit: str) -> float:
    if unit not in ("", "%"):
        raise LoadTestError(f"unknown unit {unit!r} in objective {text!r}: write a percentage such as 0.1%")
    share = bound / 100 if unit else bound
    if share > 1:
        raise LoadTestError(f"the bound of objective {text!r} exceeds 100%: write a percentage such as 0.1%")
    return share


def value_of(figures: Figures, objective: Objective) -> float | None:
    """The figure that an objective bounds; None when nothing was measured."""
    if objective.latency is not None:
        name, statistic = objective.latency
        value: float | None = getattr(getattr(figures.metrics, name), statistic)
        return value
    if objective.metric == "error_rate":
        return figures.requests.error_rate
    if objective.metric in ("goodput", "goodput_share"):
        goodput = figures.goodput
        return None if goodput is None else (goodput.share if objective.metric in SHARES else goodput.requests_per_s)
    rate: float | None = getattr(figures.throughput, objective.metric)
    return rate


def meets_all(record: Record, objectives: Sequence[Objective]) -> bool:
    """Whether one request counts as good: it completed, and its own latencies keep every bound.

    Whatever statistic an objective names, a request is held against the bound with its own value; of ITL, its mean.
    """
    if record.error is not None or record.first is None:
        return False
    return all(
        objective.allows(own_latency(record, objective.latency[0])) for objective in objectives if objective.latency
    )


def own_latency(record: Record, name: str) -> float | None:
    """One latency of one request in milliseconds; of ITL, the mean over its tokens."""
    if name == "itl":
        tokens = sum(count for _, count in record.gaps)
        seconds: float | None = sum(gap for gap, _ in record.gaps) / tokens if tokens else None
    else:
        seconds = getattr(record, name)
    return None if seconds is None else seconds * 1000


def failed(record: Record) -> bool:
    """Whether a request counts as an error. One that the client was asked to cancel does not."""
    return record.error is not None and record.error != ErrorKind.CANCELLED
