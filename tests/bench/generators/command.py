"""``python -m tests.bench loadtest``: our load generator beside others, on the same mock server and the same load."""

import argparse
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

from deploy.errors import ServeError
from loadtest._selftest_arrivals import LAG_P99_S
from tests.bench.errors import BenchError
from tests.bench.figures import Spread, spread
from tests.bench.generators.arrivals import QUICK_SECONDS, SECONDS, Arrivals, measure_arrivals
from tests.bench.generators.environments import tokenizer
from tests.bench.generators.measuring import Figures, measure
from tests.bench.generators.tools import OWN, TOOLS, Tool
from tests.bench.machine import describe_machine, now
from tests.bench.progress import say

STREAMS = 64
ROUNDS, QUICK_ROUNDS = (2, 8), (1, 4)
"""Requests of each stream in the small and in the large load."""
FEWEST_OTHERS = 2
"""Generators beside ours: with a single one nobody sees which of the two is off."""


class Comparison(BaseModel):
    """The JSON file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    date: str
    machine: dict[str, object]
    streams: int
    rounds: tuple[int, int]
    versions: dict[str, str]
    repeats: dict[str, list[Figures]]
    """By generator."""
    arrivals: list[Arrivals]
    """Our open loop, in each repeat."""
    did_not_run: dict[str, str]
    """Why, by generator."""


def main(argv: list[str]) -> int:
    """Returns 0 when our generator and at least two others were measured, otherwise 1 or 2."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench loadtest", description=__doc__)
    parser.add_argument("--repeats", type=int, choices=range(1, 11), default=3, metavar="N", help="at most 10 (3)")
    parser.add_argument("--quick", action="store_true", help="one repeat of short loads: for a look, not for figures")
    parser.add_argument("--only", action="append", choices=[tool.name for tool in TOOLS], help="repeatable")
    parser.add_argument("--output", type=Path, default=Path("results/bench-loadtest.json"), help="JSON file")
    options = parser.parse_args(argv)
    tools = [tool for tool in TOOLS if tool.name in (options.only or [tool.name])]
    try:
        comparison = compare(tools, 1 if options.quick else options.repeats, quick=options.quick)
    except ServeError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(comparison.model_dump_json(indent=1) + "\n", encoding="utf-8")
    show(comparison, Console())
    print(f"written to {options.output}", file=sys.stderr)
    if OWN in comparison.repeats and len(comparison.repeats) > FEWEST_OTHERS:
        return 0
    print(f"bench: that is no comparison: it takes {OWN} and at least {FEWEST_OTHERS} others", file=sys.stderr)
    return 1


def compare(tools: list[Tool], repeats: int, *, quick: bool) -> Comparison:
    """Measure every tool once in each repeat, one after the other. One that fails is left out from then on."""
    words, rounds = tokenizer(), QUICK_ROUNDS if quick else ROUNDS
    ready: dict[str, tuple[Tool, Path]] = {}
    versions: dict[str, str] = {}
    failed: dict[str, str] = {}
    for tool in tools:
        try:
            programs, versions[tool.name] = tool.prepare()
            ready[tool.name] = tool, programs
        except BenchError as error:
            failed[tool.name] = str(error)
    found: dict[str, list[Figures]] = {name: [] for name in ready}
    arrivals: list[Arrivals] = []
    for repeat in range(1, repeats + 1):
        for name, (tool, programs) in ready.items():
            if name in failed:
                continue
            say(f"repeat {repeat} of {repeats}: {name}")
            try:
                found[name].append(measure(tool, programs, words, STREAMS, rounds))
                if name == OWN:
                    arrivals.append(measure_arrivals(programs, QUICK_SECONDS if quick else SECONDS))
            except BenchError as error:
                failed[name] = str(error)
                say(str(error))
    return Comparison(
        date=now(),
        machine=describe_machine(),
        streams=STREAMS,
        rounds=rounds,
        versions=versions,
        repeats={name: figures for name, figures in found.items() if figures},
        arrivals=arrivals,
        did_not_run=failed,
    )


def show(comparison: Comparison, console: Console) -> None:
    """Print the median over the repeats, with the smallest and the largest."""
    table = Table(title=f"{comparison.streams} streams × 50 tokens/s: reported less sent, in ms, and CPU of the client")
    for heading in (
        "generator",
        "TTFT mean",
        "TTFT p99",
        "gap mean",
        "gap p99",
        "CPU s per\n1,000 chunks",
        "beside ours",
    ):
        table.add_column(heading, justify="left" if heading == "generator" else "right")
    for name, repeats in comparison.repeats.items():
        gaps = [one.gap_p99_error for one in repeats if one.gap_p99_error is not None]
        table.add_row(
            f"{name} {comparison.versions[name]}",
            spread(one.ttft_mean_error for one in repeats).text(2),
            spread(one.ttft_p99_error for one in repeats).text(2),
            spread(one.gap_mean_error for one in repeats).text(3),
            spread(gaps).text(2) if gaps else "–",
            spread(one.cpu_s_per_1000_chunks for one in repeats).text(3),
            f"{times_ours(comparison, name).text(2)} ×" if OWN in comparison.repeats else "–",
        )
    console.print(table)
    if comparison.arrivals:
        console.print(arrivals_line(comparison.arrivals), highlight=False, soft_wrap=True)
    for name, reason in comparison.did_not_run.items():
        console.print(f"{name} did not run: {reason}", highlight=False, markup=False, soft_wrap=True)


def arrivals_line(repeats: list[Arrivals]) -> str:
    """What our open loop did, in a sentence."""
    achieved = spread(one.achieved_rate for one in repeats).text(1)
    lag = spread(one.lag_p99_ms for one in repeats).text(2)
    return (
        f"{OWN}, open loop at {repeats[0].requested_rate:g} requests/s in one process: {achieved} sent, "
        f"dispatch lag p99 {lag} ms (goal: at most {LAG_P99_S * 1e3:g} ms)"
    )


def times_ours(comparison: Comparison, name: str) -> Spread:
    """CPU for each chunk over that of our own generator in the same repeat."""
    pairs = zip(comparison.repeats[name], comparison.repeats[OWN], strict=False)
    return spread(one.cpu_s_per_1000_chunks / own.cpu_s_per_1000_chunks for one, own in pairs)
