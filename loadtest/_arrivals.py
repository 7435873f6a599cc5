"""When requests are to be sent: closed loop, or an open-loop schedule that is a function of its seed alone."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from loadtest._errors import LoadTestError

Kind = Literal["closed", "constant", "poisson", "gamma", "ramp", "steps", "spikes", "trace"]
KINDS: tuple[Kind, ...] = get_args(Kind)
BLOCK = 1024
"""Gaps drawn at once."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of time in which the rate goes from ``start`` to ``end`` (requests/s) in a straight line."""

    seconds: float
    start: float
    end: float

    @property
    def requests(self) -> float:
        """The integral of the rate."""
        return self.seconds * (self.start + self.end) / 2

    def when(self, requests: float) -> float:
        """Seconds into the segment after which the integral of the rate has reached ``requests``."""
        slope = (self.end - self.start) / self.seconds
        # The solution of slope/2 t² + start t = requests in the form that stays exact for small slopes.
        root = math.sqrt(max(0.0, self.start**2 + 2 * slope * requests))
        return 2 * requests / (self.start + root) if requests else 0.0


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What was asked for. Rates in requests/s of all processes together, times in seconds."""

    kind: Kind
    rate: float | None = None
    burstiness: float = 1.0
    """Gamma: its shape. 1 is a Poisson process; below 1 arrivals come in bursts, above they are more regular."""
    peak: float | None = None
    """Ramp: the rate at the end. Spikes: the rate within a spike."""
    steps: tuple[tuple[float, float], ...] = ()
    """(rate, seconds) in turn."""
    spike_every: float = 30.0
    spike_length: float = 5.0
    trace: tuple[float, ...] = field(default=(), repr=False)
    """Arrivals of a trace, seconds since its start."""
    file: str | None = None
    """The file that the trace was read from."""

    @property
    def open_loop(self) -> bool:
        """Whether requests are sent on a schedule, however many are unanswered."""
        return self.kind != "closed"

    def times(self, seed: int, duration_s: float | None) -> Iterator[float]:
        """The intended send times in order, seconds since the start, up to ``duration_s``; without, for ever.

        Raises LoadTestError where the kind lacks what it needs.
        """
        for t in self._times(seed, duration_s):
            if duration_s is not None and t >= duration_s:
                return
            yield t

    def _times(self, seed: int, duration_s: float | None) -> Iterator[float]:
        if self.kind in ("poisson", "gamma"):
            shape = self.burstiness if self.kind == "gamma" else 1.0
            return _renewals(_known(self.rate, "--rate"), shape, seed)
        if self.kind == "trace":
            return iter(self.trace)
        return _deterministic(self.segments(duration_s), repeat=self.kind == "spikes")

    def segments(self, duration_s: float | None) -> list[Segment]:
        """The rate over time, of the kinds without chance. Raises LoadTestError."""
        if self.kind == "steps":
            if not self.steps:
                raise LoadTestError("--arrivals steps needs --steps, for example 2:30,4:30,8:30")
            return [Segment(seconds, rate, rate) for rate, seconds in self.steps]
        rate = _known(self.rate, "--rate")
        if self.kind == "constant":
            return [Segment(math.inf, rate, rate)]
        peak = _known(self.peak, "--peak")
        if self.kind == "spikes":
            if self.spike_length >= self.spike_every:
                raise LoadTestError(
                    f"--spike-length is {self.spike_length:g}: it must be less than --spike-every, {self.spike_every:g}"
                )
            return [Segment(self.spike_every - self.spike_length, rate, rate), Segment(self.spike_length, peak, peak)]
        if duration_s is None:
            raise LoadTestError("--arrivals ramp needs -t: the rate reaches --peak when the run ends")
        return [Segment(duration_s, rate, peak)]

    def natural_duration(self) -> float | None:
        """How long a schedule with an end is; None for the others."""
        if self.kind == "steps":
            return sum(seconds for _, seconds in self.steps)
        return math.nextafter(self.trace[-1], math.inf) if self.kind == "trace" else None

    def mean_rate(self, seed: int, duration_s: float, window: tuple[float, float]) -> float:
        """The rate that the schedule asks for in the window: of random arrivals the expected one, else as it is."""
        start, end = window
        if self.kind in ("poisson", "gamma"):
            return _known(self.rate, "--rate")
        if end <= start:
            return 0.0
        # Records hold microseconds: an arrival at the edge of the window must fall on the same side here as there.
        return sum(start <= round(t, 6) <= end for t in self.times(seed, duration_s)) / (end - start)

    def described(self, seed: int) -> dict[str, Any]:
        """What belongs to the kind, for reports."""
        values: dict[str, Any] = {"kind": self.kind}
        wanted: dict[Kind, Sequence[str]] = {
            "closed": (),
            "constant": ("rate",),
            "poisson": ("rate",),
            "gamma": ("rate", "burstiness"),
            "ramp": ("rate", "peak"),
            "steps": ("steps",),
            "spikes": ("rate", "peak", "spike_every", "spike_length"),
            "trace": ("rate", "file"),
        }
        values |= {name: getattr(self, name) for name in wanted[self.kind] if getattr(self, name) is not None}
        if self.kind == "steps":
            values["steps"] = [list(step) for step in self.steps]
        return values | ({"seed": seed} if self.kind in ("poisson", "gamma") else {})


def _known(value: float | None, flag: str) -> float:
    if value is None:
        raise LoadTestError(f"these --arrivals need {flag}, requests/s")
    return value


def _renewals(rate: float, shape: float, seed: int) -> Iterator[float]:
    """Arrivals with independent gamma-distributed gaps of mean 1/rate; of shape 1, a Poisson process."""
    random = np.random.default_rng(seed)
    now = 0.0
    while True:
        for t in now + np.cumsum(random.gamma(shape, 1 / (rate * shape), size=BLOCK)):
            now = float(t)
            yield now


def _deterministic(segments: Sequence[Segment], *, repeat: bool) -> Iterator[float]:
    """Request k is due when the integral of the rate reaches k, the first at once."""
    start, done, number = 0.0, 0.0, 0
    while True:
        for segment in segments:
            end = done + segment.requests
            while number < end - 1e-9:
                yield start + segment.when(max(0.0, number - done))
                number += 1
            start, done = start + segment.seconds, end
        if not repeat:
            return


def parse_steps(text: str) -> tuple[tuple[float, float], ...]:
    """``RATE:SECONDS,RATE:SECONDS``. Raises ValueError."""
    steps = []
    for word in text.split(","):
        rate, colon, seconds = word.partition(":")
        step = (float(rate), float(seconds)) if colon else (math.nan, math.nan)
        if not (0 <= step[0] <= 1e6 and 0 < step[1] <= 1e6):
            raise ValueError(f"{word!r} is no step: write RATE:SECONDS, for example 2:30,4:30")
        steps.append(step)
    return tuple(steps)
