"""From parsed flags and chosen scenarios to the plan of a run; the server is asked what only it knows."""

import difflib
import secrets
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from loadtest._arrivals import Arrivals
from loadtest._ask import AskError
from loadtest._calibration import Calibration, calibrate, first_model, tell
from loadtest._connection import Endpoint
from loadtest._errors import LoadTestError
from loadtest._flags import arrivals_of
from loadtest._run_plan import RunPlan, read_trace, trace_sha256, with_trace
from loadtest._workload import Workload, load

UNKNOWN_MODEL = "default"
WARMUP_SHARE, MOST_WARMUP_S = 0.1, 30.0
DRAIN_S = 30.0


def choose(options: Any, classes: Sequence[Any], default: str) -> list[Any]:
    """The scenarios to run: those named, else those with one of ``--tags``, else the default alone.

    Raises LoadTestError for a tag that no scenario has.
    """
    if getattr(options, "user_classes", None):
        return list(classes)
    if not options.tags:
        chosen = [one for one in classes if one.__name__ == default]
        return chosen or list(classes)
    tags = {one.__name__: _tags(one) for one in classes}
    known = sorted(set().union(*tags.values()))
    for tag in options.tags:
        if tag not in known:
            (nearest,) = difflib.get_close_matches(tag, known, n=1, cutoff=0)
            raise LoadTestError(f"no scenario has the tag {tag!r}: did you mean {nearest!r}?")
    return [one for one in classes if tags[one.__name__] & set(options.tags)]


def _tags(scenario: Any) -> set[str]:
    return {name for task in scenario.tasks for name in getattr(task, "locust_tag_set", ())}


def plan_of(options: Any, run_time: int | None, host: str | None, classes: Sequence[Any]) -> RunPlan:
    """The plan, as far as it is known without the server. Raises LoadTestError."""
    if not host:
        raise LoadTestError("no server to test: give --host, for example --host http://127.0.0.1:8000")
    try:
        Endpoint.parse(host)
    except ValueError as error:
        raise LoadTestError(str(error)) from None
    if not classes:
        raise LoadTestError("no scenario was chosen: name one, or leave --exclude-tags out")
    scenarios = {one.__name__: _workloads(options, one, classes) for one in classes}
    arrivals = _arrivals(options, classes)
    duration = float(run_time) if run_time else None
    natural = arrivals.natural_duration()
    if natural is not None:
        duration = natural if duration is None else min(duration, natural)
    if arrivals.open_loop:
        # Raises where a parameter is missing.
        next(arrivals.times(options.seed, duration), None)
    warmup = options.warmup
    if warmup is None:
        warmup = min(MOST_WARMUP_S, WARMUP_SHARE * duration) if duration is not None else 0.0
    if duration is not None and warmup + options.cooldown >= duration:
        raise LoadTestError(f"--warmup and --cooldown leave nothing of the {duration:g} s of the run to be measured")
    return RunPlan(
        host=host,
        model=options.model or "",
        seed=options.seed,
        nonce=options.nonce or secrets.token_hex(4),
        scenarios=scenarios,
        workload=options.workload or "+".join(one.workload for one in classes),
        arrivals=arrivals,
        trace=options.trace,
        duration_s=duration,
        warmup_s=warmup,
        cooldown_s=options.cooldown,
        think_time_s=options.think_time,
        request_timeout_s=options.request_timeout,
        drain_s=float(options.stop_timeout or 0) or DRAIN_S,
        most_in_flight=options.max_in_flight,
        users=options.num_users or 1,
        calibration=Calibration(),
        trace_sha256=None if options.trace is None else trace_sha256(options.trace),
    )


def _workloads(options: Any, scenario: Any, classes: Sequence[Any]) -> list[tuple[Workload, float]]:
    if options.workload and len(classes) > 1:
        names = " ".join(one.__name__ for one in classes)
        raise LoadTestError(f"--workload replaces the workload of one scenario, and {len(classes)} run: {names}")
    pairs = load(options.workload or scenario.workload)
    if options.trace is None and any(workload.uses_trace for workload, _ in pairs):
        raise LoadTestError(f"the scenario {scenario.__name__} takes its lengths from a trace: give --trace FILE")
    total = sum(weight for _, weight in pairs)
    return [(workload, float(scenario.weight) * weight / total) for workload, weight in pairs]


def _arrivals(options: Any, classes: Sequence[Any]) -> Arrivals:
    defaults = {one.arrivals for one in classes}
    arrivals = arrivals_of(options, defaults.pop() if len(defaults) == 1 else "closed")
    return with_trace(arrivals, read_trace(options.trace)) if arrivals.kind == "trace" else arrivals


def resolve(plan: RunPlan, api_key: str | None) -> RunPlan:
    """The plan with the model and the tokeniser's calibration. What the server does not tell is guessed, and said."""
    model = plan.model
    if not model:
        try:
            model = first_model(plan.host, api_key)
        except AskError as error:
            hint = ": give --api-key" if error.status in (401, 403) else ": give --model"
            print(f"loadtest: {plan.host}/v1/models does not tell the model ({error}){hint}", file=sys.stderr)
            model = UNKNOWN_MODEL
    workloads = {workload.name: workload for workload, _ in plan.workloads}
    calibration = calibrate(plan.host, api_key, model, list(workloads.values()))
    tell(calibration)
    return replace(plan, model=model, calibration=calibration)
