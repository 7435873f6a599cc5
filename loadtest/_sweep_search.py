"""The search for the highest sustainable rate: doubling until a rate fails, then bisection with repeats."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from loadtest import _threshold
from loadtest._errors import TrialError
from loadtest._print import measured_value
from loadtest._schema import Level, Part, Summary

STEADY_STATE = "steady state"
"""What a rate missed at which the queue kept growing, whatever its objectives say so far."""
EndedBy = Literal["precision", "low", "high", "budget", "untrusted", "interrupted"]

Runner = Callable[[float, int], Summary]
"""Runs one trial: (requests/s, number of the trial from 0). Raises TrialError where it could not be measured."""


class Trial(Part):
    """One run at one rate."""

    rate: float
    passed: bool | None
    """None: the run says nothing about the server."""
    missed: list[str]
    measured: dict[str, str]
    """Each objective with its value as text."""
    verdict: Level
    reasons: list[str]
    achieved_rate: float | None
    e2e_mean_ms: float | None
    samples: int
    seconds: float
    """How long the trial took in all."""


class Sweep(Part):
    """The outcome: ``sweep.json``."""

    schema_version: Literal[1] = 1
    host: str
    objectives: list[str]
    command: str
    sustainable: float | None
    """Highest rate that was decided to pass, requests/s; None: not sustainable at any tested rate."""
    low: float | None
    high: float | None
    """The 95 % credible interval of the rate that half of all trials would meet; None where no trial bounds it."""
    binding: list[str]
    """What the lowest failing rate missed most often."""
    ended_by: EndedBy
    trials: list[Trial]
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Where to search, and for how long. Rates in requests/s."""

    low: float
    high: float
    precision: float
    """Stop when the lowest failing rate exceeds the highest passing one by less than this share."""
    repeats: int
    """Odd: a rate is decided by the majority of so many trials, as soon as there is one."""

    @property
    def majority(self) -> int:
        """Trials with one outcome that decide a rate."""
        return self.repeats // 2 + 1

    budget_s: float
    trial_s: float
    """How long one trial is expected to take, until one has been seen."""


@dataclass(slots=True)
class Search:
    """One search. ``clock`` gives seconds; ``progress`` is called with each trial as it ends."""

    run: Runner
    plan: Plan
    clock: Callable[[], float]
    progress: Callable[[Trial], None]
    trials: list[Trial] = field(default_factory=list)
    failing: float | None = None
    _passed: list[float] = field(default_factory=list)
    _started: float = 0.0

    @property
    def passing(self) -> float | None:
        """The highest rate that was decided to pass."""
        return max(self._passed, default=None)

    def search(self) -> EndedBy:
        """Run trials until the rate is known as precisely as asked, or the budget is spent; returns what ended it."""
        self._started = self.clock()
        rate, confirming = self.plan.low, False
        while True:
            decided = self._decide(rate, confirming=confirming)
            if decided is None:
                return "untrusted" if self._doubtful() else "budget"
            self._note(rate, passes=decided)
            passing = self.passing
            if passing is None:
                return "low"
            ended_by = self._reached(passing)
            confirming = ended_by is not None
            if ended_by is not None and self._outcomes(passing).count(True) >= self.plan.majority:
                return ended_by
            rate = passing if confirming else self._next(passing)

    def _note(self, rate: float, *, passes: bool) -> None:
        if passes:
            self._passed.append(rate)
        else:
            self.failing = rate
            # A rate that one trial had passed while doubling may fail when it is confirmed.
            self._passed = [one for one in self._passed if one < rate]

    def _reached(self, passing: float) -> EndedBy | None:
        if self.failing is None:
            return "high" if passing >= self.plan.high else None
        return "precision" if self.failing <= passing * (1 + self.plan.precision) else None

    def _next(self, passing: float) -> float:
        if self.failing is None:
            return min(2 * passing, self.plan.high)
        return (passing + self.failing) / 2

    def _decide(self, rate: float, *, confirming: bool) -> bool | None:
        """Whether the majority of the trials at a rate passes. None: no time left, or it cannot be measured.

        While doubling, one trial that passes is enough, because what becomes the result is confirmed. A trial that
        proves nothing is repeated at least once.
        """
        majority = self.plan.majority
        while self._time_left():
            trial = self._trial(rate)
            here = self._outcomes(rate)
            if here.count(None) >= max(2, majority):
                return None
            if here.count(True) >= majority or (here == [True] and self.failing is None and not confirming):
                return True
            if here.count(False) >= majority:
                return False
            if trial.passed is None and self._server_gone():
                return None
        return None

    def _outcomes(self, rate: float) -> list[bool | None]:
        return [one.passed for one in self.trials if one.rate == rate]

    def _trial(self, rate: float) -> Trial:
        started = self.clock()
        try:
            summary = self.run(rate, len(self.trials))
        except TrialError as error:
            trial = unmeasured(rate, error, self.clock() - started)
        else:
            trial = trial_of(rate, summary, self.clock() - started)
        self.trials.append(trial)
        self.progress(trial)
        return trial

    def _time_left(self) -> bool:
        longest = max([one.seconds for one in self.trials], default=self.plan.trial_s)
        return self.clock() - self._started + longest <= self.plan.budget_s

    def _doubtful(self) -> bool:
        return bool(self.trials) and self.trials[-1].passed is None

    def _server_gone(self) -> bool:
        return any(reason.startswith("server:") for reason in self.trials[-1].reasons)


def trial_of(rate: float, summary: Summary, seconds: float) -> Trial:
    """What one run says about a rate.

    SUSPECT is good enough for a trial (short ones seldom have the samples that a p99 needs), but for two findings:
    a rate that was not achieved was not tried, and a queue that grows is no sustained rate.
    """
    checks = {reason.check for reason in summary.verdict.reasons}
    missed = [result.text for result in summary.objectives if not result.met]
    if "steady_state" in checks:
        missed.append(STEADY_STATE)
    trusted = summary.verdict.level != "INVALID" and "rate" not in checks
    return Trial(
        rate=rate,
        passed=not missed if trusted else None,
        missed=missed,
        measured={result.text: measured_value(result) for result in summary.objectives},
        verdict=summary.verdict.level,
        reasons=[f"{reason.check}: {reason.text}" for reason in summary.verdict.reasons],
        achieved_rate=summary.load.achieved_rate,
        e2e_mean_ms=summary.total.metrics.e2e.mean,
        samples=summary.total.requests.sent,
        seconds=seconds,
    )


def unmeasured(rate: float, error: TrialError, seconds: float) -> Trial:
    """A trial without a result."""
    return Trial(
        rate=rate,
        passed=None,
        missed=[],
        measured={},
        verdict="INVALID",
        reasons=[f"not measured: {error}"],
        achieved_rate=None,
        e2e_mean_ms=None,
        samples=0,
        seconds=seconds,
    )


def outcome(search: Search, ended_by: EndedBy, host: str, objectives: Sequence[str], command: str) -> Sweep:
    """The result of a finished search."""
    decided = [(trial.rate, trial.passed) for trial in search.trials if trial.passed is not None]
    low, high = _threshold.interval(decided)
    return Sweep(
        host=host,
        objectives=list(objectives),
        command=command,
        sustainable=search.passing,
        low=low,
        high=high,
        binding=binding(search.trials),
        ended_by=ended_by,
        trials=search.trials,
        seconds=sum(trial.seconds for trial in search.trials),
    )


def binding(trials: Sequence[Trial]) -> list[str]:
    """What limits the rate: what the trials at the lowest failing rate missed, the most frequent first."""
    failed = [trial for trial in trials if trial.passed is False]
    lowest = min((trial.rate for trial in failed), default=None)
    missed = Counter(text for trial in failed if trial.rate == lowest for text in trial.missed)
    return [text for text, _ in missed.most_common()]
