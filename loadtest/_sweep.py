"""``python -m loadtest sweep``: the highest open-loop rate that meets the objectives."""

import argparse
import sys
import time
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from loadtest._errors import INTERRUPTED, LoadTestError
from loadtest._locust_runner import LocustRunner
from loadtest._print import amount
from loadtest._run_data import shown_command
from loadtest._schema import Summary
from loadtest._slo import parse_all
from loadtest._sweep_search import STEADY_STATE, EndedBy, Plan, Search, Sweep, Trial, outcome

SWEEP = "sweep.json"
OVERHEAD_S = 10.0
"""Starting Locust and ending it, for the estimate before the first trial."""
UNTRUSTED = 3
DIRECTORY = Path("results/sweep")
MOST_RATE = 100_000.0
ENDED: dict[EndedBy, str] = {
    "precision": "as precise as asked",
    "low": "the lowest rate fails",
    "high": "the highest rate passes: raise --high",
    "budget": "the time is spent: raise --budget",
    "untrusted": "the last rate could not be measured, for the reason beside its trials",
    "interrupted": "it was interrupted, and its last trial does not count",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""

    def number(flag: str, default: float, metavar: str, text: str) -> None:
        kind = type(default)
        parser.add_argument(flag, type=kind, default=default, metavar=metavar, help=f"{text} [default: {default:g}]")

    parser.add_argument("--host", required=True, metavar="URL", help="base URL of the server")
    parser.add_argument("--slo", action="append", required=True, metavar="OBJ", help="ttft_p95<500ms; repeatable")
    number("--low", 0.5, "R", "first rate, requests/s")
    number("--high", 1000.0, "R", "never more than this rate, requests/s")
    number("--duration", 30.0, "S", "measured seconds of a trial")
    number("--warmup", 5.0, "S", "seconds before them that do not count")
    number("--precision", 0.1, "P", "find the rate to within this share")
    number("--repeats", 3, "N", "odd: the majority of so many trials decides a rate")
    number("--budget", 540.0, "S", "begin no trial that would end later")
    number("--seed", 1, "N", "seed of the first trial")
    parser.add_argument("--arrivals", choices=("poisson", "constant"), default="poisson", help="[default: poisson]")
    parser.add_argument("--report", type=Path, default=DIRECTORY, metavar="DIR", help=f"[default: {DIRECTORY}]")


def run(arguments: argparse.Namespace, passthrough: list[str]) -> int:
    """Sweep; ``passthrough`` goes to Locust. Returns ``exit_code`` of its outcome.

    Raises LoadTestError for a wrong option of its own or of Locust.
    """
    plan, console = plan_of(arguments), Console()
    locust = LocustRunner(
        host=arguments.host,
        objectives=arguments.slo,
        arrivals=arguments.arrivals,
        duration_s=arguments.duration,
        warmup_s=arguments.warmup,
        seed=arguments.seed,
        report=arguments.report,
        passthrough=passthrough,
    )
    console.print(f"Trials of about {plan.trial_s:.0f} s, at most {plan.budget_s / 60:.1f} minutes in all.")

    def trial(rate: float, number: int) -> Summary:
        with console.status(f"trial {number + 1} at {rate:g} requests/s"):
            return locust(rate, number)

    search = Search(trial, plan, time.monotonic, lambda one: console.print(line(one), highlight=False, soft_wrap=True))
    try:
        ended_by = search.search()
    except KeyboardInterrupt:
        ended_by = "interrupted"
    result = outcome(search, ended_by, arguments.host, arguments.slo, shown_command(sys.argv))
    save(result, arguments.report)
    for text in conclusion(result):
        console.print(text, highlight=False, soft_wrap=True)
    console.print(f"Result: {arguments.report / SWEEP}", highlight=False, soft_wrap=True)
    return exit_code(result)


def plan_of(arguments: argparse.Namespace) -> Plan:
    """The plan of the search. Raises LoadTestError for an option out of bounds and for a wrong objective."""
    parse_all(arguments.slo)
    bounds = {
        "low": (0.001, MOST_RATE),
        "high": (arguments.low, MOST_RATE),
        "duration": (5, 3600),
        "warmup": (0, 600),
        "precision": (0.01, 1),
        "repeats": (1, 9),
        "budget": (arguments.duration + arguments.warmup + OVERHEAD_S, 86400),
        "seed": (0, 2**31),
    }
    for name, (least, most) in bounds.items():
        value = getattr(arguments, name)
        if not least <= value <= most:
            raise LoadTestError(f"--{name} is {value:g}: it must be from {least:g} to {most:g}")
    if arguments.repeats % 2 == 0:
        raise LoadTestError(f"--repeats is {arguments.repeats}: it must be odd, so that there is always a majority")
    return Plan(
        low=arguments.low,
        high=arguments.high,
        precision=arguments.precision,
        repeats=arguments.repeats,
        budget_s=arguments.budget,
        trial_s=arguments.duration + arguments.warmup + OVERHEAD_S,
    )


def line(trial: Trial) -> str:
    """One trial in a line."""
    word = {True: "[green]met[/]      ", False: "[red]missed[/]   ", None: "[yellow]untrusted[/]"}[trial.passed]
    parts = [", ".join(f"{text}: {value}" for text, value in trial.measured.items())] if trial.measured else []
    parts += [f"no {STEADY_STATE}"] if STEADY_STATE in trial.missed else []
    parts += trial.reasons if trial.passed is None else []
    return f"{trial.rate:8.3g}/s {word} {escape('; '.join(parts))} ({trial.samples} requests, {trial.seconds:.0f} s)"


def conclusion(sweep: Sweep) -> list[str]:
    """The outcome in sentences."""
    trials = "1 trial" if len(sweep.trials) == 1 else f"{len(sweep.trials)} trials"
    ended = f"Ended after {trials} and {sweep.seconds:.0f} s: {ENDED[sweep.ended_by]}."
    if sweep.sustainable is None:
        text = "Not sustainable at any tested rate." if sweep.ended_by == "low" else "No rate could be tested."
        return [f"[bold]{text}[/]", *_limit(sweep), ended]
    here = [trial.passed for trial in sweep.trials if trial.rate == sweep.sustainable and trial.passed is not None]
    trials_there = "1 trial" if len(here) == 1 else f"{len(here)} trials"
    least = "" if sweep.ended_by == "precision" else "at least "
    text = f"Sustainable: {least}{sweep.sustainable:.3g} requests/s, which {here.count(True)} of {trials_there} met."
    bounds = f"{amount(sweep.low)} requests/s or more" if sweep.high is None else _range(sweep)
    interval = f"The rate that half of all trials would meet: {bounds} (95 % credible interval)."
    return [f"[bold]{text}[/]", interval, *_limit(sweep), ended]


def _range(sweep: Sweep) -> str:
    return f"{amount(sweep.low)} to {amount(sweep.high)} requests/s"


def _limit(sweep: Sweep) -> list[str]:
    return [f"What limits it: {escape(', '.join(sweep.binding))}."] if sweep.binding else []


def exit_code(sweep: Sweep) -> int:
    """0: a rate was found. 1: the lowest one fails. 3: a rate could not be measured, or there was no time for any.

    130: it was interrupted.
    """
    if sweep.ended_by == "interrupted":
        return INTERRUPTED
    if sweep.ended_by == "untrusted":
        return UNTRUSTED
    if sweep.sustainable is not None:
        return 0
    return 1 if sweep.ended_by == "low" else UNTRUSTED


def save(sweep: Sweep, directory: Path) -> None:
    """Write ``sweep.json``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / SWEEP).write_text(sweep.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load(directory: Path) -> Sweep:
    """Read the result of a sweep back. Raises LoadTestError for a directory without one."""
    path = directory / SWEEP
    try:
        return Sweep.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LoadTestError(f"{directory} holds no sweep: {error.strerror} ({SWEEP})") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise LoadTestError(f"{path} is no sweep of this version: {first['msg']}") from None
