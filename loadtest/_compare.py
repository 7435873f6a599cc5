"""``python -m loadtest compare A B``: whether B is worse than A, for runs of the same workload."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtest._compare_statistics import ERROR_RATE, Change, changes
from loadtest._errors import LoadTestError
from loadtest._files import SUMMARY, load, load_summary
from loadtest._print import amount
from loadtest._run_data import RunData
from loadtest._schema import Summary

NO_WORSE, WORSE, UNTRUSTED = 0, 1, 3
COLOURS = {"worse": "red", "better": "green", "same": "dim"}
OWN_TO_A_RUN = ("seed", "start", "started", "file")
"""Keys of ``arrivals`` that repeats of one load may differ in."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("a", type=Path, metavar="A", help="report directory of a run, or a directory of repeats of it")
    parser.add_argument("b", type=Path, metavar="B", help="the same, to be judged against A")
    parser.add_argument("--force", action="store_true", help="compare different workloads, and runs that are INVALID")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.02,
        metavar="T",
        help="share by which a metric other than the error rate may change [default: 0.02]",
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare. 0: B is no worse. 1: it is. 3: the runs cannot be compared or trusted. Raises LoadTestError."""
    if not 0 <= arguments.tolerance < 1:
        raise LoadTestError(f"--tolerance is {arguments.tolerance:g}: it must be from 0 to less than 1, such as 0.02")
    directories = [runs_in(arguments.a), runs_in(arguments.b)]
    summaries = [load_summary(directory) for side in directories for directory in side]
    console = Console()
    refused = [*different(summaries), *untrusted(summaries)]
    for text in refused:
        console.print(text, highlight=False, soft_wrap=True, markup=False)
    if refused and not arguments.force:
        console.print("Not compared. --force compares all the same.")
        return UNTRUSTED
    a, b = ([load(directory) for directory in side] for side in directories)
    found = changes(a, b)
    show(found, a, b, arguments.tolerance, console)
    return WORSE if any(change.judged(arguments.tolerance) == "worse" for change in found) else NO_WORSE


def runs_in(directory: Path) -> list[Path]:
    """The directory itself where it holds a run, otherwise those directly inside that do. Raises LoadTestError."""
    if (directory / SUMMARY).exists():
        return [directory]
    inside = sorted(path.parent for path in directory.glob(f"*/{SUMMARY}"))
    if not inside:
        raise LoadTestError(f"{directory} holds no finished run: give a directory that --report wrote")
    return inside


def different(summaries: Sequence[Summary]) -> list[str]:
    """What makes the load of the runs different, in sentences; the model and the server may differ."""
    first, *others = (_load(summary) for summary in summaries)
    return list(dict.fromkeys(text for other in others for text in _differences(first, other)))


def _load(summary: Summary) -> dict[str, Any]:
    info = summary.run
    arrivals = {name: value for name, value in info.arrivals.items() if name not in OWN_TO_A_RUN}
    # The path of a file is no part of the workload; its hash and its parameters are.
    return {
        "workload": info.workload.get("name"),
        "workload hash": info.workload.get("hash"),
        "workload parameters": info.workload.get("parameters"),
        "trace": info.workload.get("trace"),
        "arrivals": arrivals,
        "users": info.users,
        "scenarios": sorted(summary.scenarios),
    }


def _differences(first: dict[str, Any], other: dict[str, Any]) -> Iterable[str]:
    for name, value in first.items():
        if other[name] != value:
            yield f"different {name}: {value} and {other[name]}"


def untrusted(summaries: Sequence[Summary]) -> list[str]:
    """Which runs are INVALID, and why."""
    return [
        f"the run of {summary.run.started} is INVALID: {reason.text}"
        for summary in summaries
        for reason in summary.verdict.reasons
        if reason.level == "INVALID"
    ]


def show(
    found: Sequence[Change], a: Sequence[RunData], b: Sequence[RunData], tolerance: float, console: Console
) -> None:
    """Print the table and the outcome."""
    table = Table(title=f"A: {_runs(a)}, B: {_runs(b)}")
    table.add_column("metric")
    for name in ("A", "B", "change", "interval", ""):
        table.add_column(name, justify="right")
    for change in found:
        word = change.judged(tolerance)
        table.add_row(*_cells(change), f"[{COLOURS[word]}]{word}[/]")
    console.print(table)
    if min(len(a), len(b)) < 2:
        text = "One run on a side: how runs differ from each other is not in the intervals; repeat them."
        console.print(text, soft_wrap=True)
    worse = [change.metric for change in found if change.judged(tolerance) == "worse"]
    console.print(f"B is worse: {', '.join(worse)}." if worse else "B is no worse.", highlight=False)


def _runs(side: Sequence[RunData]) -> str:
    return f"{len(side)} run{'s' if len(side) > 1 else ''}"


def _cells(change: Change) -> list[str]:
    values = asdict(change)
    if change.metric == ERROR_RATE:
        return [change.metric, *(f"{values[name]:.2%}" for name in ("a", "b")), *_change_cells(change, " points")]
    return [change.metric, amount(change.a), amount(change.b), *_change_cells(change, " %")]


def _change_cells(change: Change, unit: str) -> list[str]:
    return [
        f"{change.change * 100:+.1f}{unit}",
        f"{change.low * 100:+.1f} to {change.high * 100:+.1f}{unit}",
    ]
