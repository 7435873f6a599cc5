"""``python -m loadtest plan``: replicas for a rate with headroom and spares, and the matching autoscaling settings."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from loadtest import _sweep
from loadtest._errors import LoadTestError
from loadtest._sweep_search import Sweep, Trial

MOST_REPLICAS = 1000
LEAST_TARGET, MOST_TARGET = 0.1, 10_000.0
"""Bounds of target_ongoing_requests: below 0.1 a replica would be planned for every tenth request in flight."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one replica sustains, and what it takes then."""

    rate: float
    """Requests/s of one replica, every objective met."""
    latencies: Sequence[tuple[float, float]] = ()
    """(requests/s of one replica, mean E2E in seconds) as far as measured, by rate."""

    def latency_at(self, rate: float) -> float | None:
        """Mean E2E of a request in seconds at this rate of one replica, interpolated; None without measurements."""
        if not self.latencies:
            return None
        rates, seconds = zip(*self.latencies, strict=True)
        return float(np.interp(rate, rates, seconds))


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """Replicas for a rate."""

    rate: float
    needed: int
    """Enough for the rate with the headroom."""
    replicas: int
    """``needed`` and the spare ones."""
    utilisation: float
    """Share of what all replicas sustain that the rate takes."""
    target_ongoing_requests: float | None
    """Requests in flight on each replica at the rate: rate × latency / replicas (Little's law). None: not measured."""
    min_replicas: int

    def settings(self) -> dict[str, Any]:
        """The settings of mistral-serve, as in a profile."""
        scaling: dict[str, Any] = {"min_replicas": self.min_replicas, "max_replicas": self.replicas}
        if self.target_ongoing_requests is not None:
            scaling["target_ongoing_requests"] = self.target_ongoing_requests
        return {"scaling": scaling}

    def values(self) -> dict[str, Any]:
        """Values of the chart, which autoscales only towards a known target: without one, a fixed number."""
        if self.target_ongoing_requests is None:
            return {"settings": {"scaling": {"replicas": self.replicas}}}
        return {"autoscaler": {"enabled": True}, "settings": self.settings()}


def plan(rate: float, capacity: Capacity, headroom: float, spare: int) -> ReplicaPlan:
    """Replicas for ``rate`` requests/s: ⌈rate / (capacity × (1 − headroom))⌉ + spare. Raises LoadTestError.

    The autoscaler aims at rate × latency / replicas requests in flight each, so that all replicas, the spare ones too,
    run at the full rate; with less load it removes replicas down to one and the spare ones.
    """
    # The rounding error of a division must not cost a replica.
    needed = max(1, math.ceil(rate / (capacity.rate * (1 - headroom)) - 1e-9))
    replicas = needed + spare
    if replicas > MOST_REPLICAS:
        raise LoadTestError(f"{rate:g} requests/s take {replicas} replicas: more than {MOST_REPLICAS} cannot be set up")
    latency = capacity.latency_at(rate / replicas)
    target = None if latency is None else round(min(MOST_TARGET, max(LEAST_TARGET, rate * latency / replicas)), 2)
    return ReplicaPlan(
        rate=rate,
        needed=needed,
        replicas=replicas,
        utilisation=rate / (replicas * capacity.rate),
        target_ongoing_requests=target,
        min_replicas=min(1 + spare, replicas),
    )


def capacity_of(sweep: Sweep, replicas: int) -> Capacity:
    """What one of the ``replicas`` sustains that were swept together: the lower end of the interval, to be safe.

    Raises LoadTestError for a sweep that found no sustainable rate.
    """
    if sweep.sustainable is None:
        raise LoadTestError("the sweep found no sustainable rate: loosen the objectives, or use a faster server")
    rate = min(sweep.sustainable, sweep.low or sweep.sustainable)
    passed = sorted({trial.rate for trial in sweep.trials if trial.passed})
    return Capacity(rate / replicas, [(one / replicas, _latency(sweep.trials, one)) for one in passed])


def _latency(trials: Sequence[Trial], rate: float) -> float:
    found = [one.e2e_mean_ms for one in trials if one.rate == rate and one.passed and one.e2e_mean_ms is not None]
    return float(np.mean(found)) / 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("--rate", type=float, required=True, metavar="X", help="requests/s to plan for, at the peak")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--report", type=Path, metavar="DIR", help="directory of a sweep")
    source.add_argument("--sustainable", type=float, metavar="R", help="requests/s that the measured replicas sustain")
    parser.add_argument("--replicas", type=int, default=1, metavar="N", help="replicas that were measured [default: 1]")
    parser.add_argument("--headroom", type=float, default=0.2, metavar="H", help="share to keep free [default: 0.2]")
    parser.add_argument("--spare", type=int, default=1, metavar="N", help="replicas that may fail [default: 1]")
    parser.add_argument("--chart", action="store_true", help="print values for the Helm chart, not a profile")


def run(arguments: argparse.Namespace) -> int:
    """Print the plan: YAML for a profile or for the chart, the reasoning as its comments. Raises LoadTestError."""
    _check(arguments)
    if arguments.report is None:
        capacity = Capacity(arguments.sustainable / arguments.replicas)
    else:
        capacity = capacity_of(_sweep.load(arguments.report), arguments.replicas)
    found = plan(arguments.rate, capacity, arguments.headroom, arguments.spare)
    planned = found.values() if arguments.chart else found.settings()
    print(render(found, capacity, arguments.headroom) + yaml.safe_dump(planned, sort_keys=False), end="")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    bounds = {"rate": 1e6, "sustainable": 1e6, "replicas": MOST_REPLICAS}
    for name, most in bounds.items():
        value = getattr(arguments, name)
        if value is not None and not 0 < value <= most:
            raise LoadTestError(f"--{name} is {value:g}: it must be more than 0 and at most {most:g}")
    if not 0 <= arguments.headroom < 1:
        raise LoadTestError(f"--headroom is {arguments.headroom:g}: it must be from 0 to less than 1, such as 0.2")
    if not 0 <= arguments.spare <= MOST_REPLICAS:
        raise LoadTestError(f"--spare is {arguments.spare}: it must be from 0 to {MOST_REPLICAS}")


def render(replicas: ReplicaPlan, capacity: Capacity, headroom: float) -> str:
    """The reasoning, as comments of the YAML below it."""
    lines = [
        f"# For {replicas.rate:g} requests/s: one replica sustains {capacity.rate:.3g}, less {headroom:.0%} headroom.",
        f"# Needed: {replicas.needed}; with spares: {replicas.replicas}, each then at {replicas.utilisation:.0%}.",
        f"# A fixed number instead: scaling: {{replicas: {replicas.replicas}}}",
    ]
    if replicas.target_ongoing_requests is None:
        lines.append(
            "# No latency was measured: target_ongoing_requests is left to the server. A sweep's --report sets it."
        )
    return "\n".join(lines) + "\n"
