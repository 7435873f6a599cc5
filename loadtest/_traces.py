"""``python -m loadtest trace FILE``: what a trace holds, and how to make it fit a server and write it as our own."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from loadtest._errors import LoadTestError
from loadtest._print import amount
from loadtest._slo import QUANTILES
from loadtest._statistics import percentiles
from loadtest._trace_formats import MOST_TOKENS, Trace, TraceRequest, read, write
from loadtest._trace_scaling import at_rate, cut, mean_rate, scaled, within

LENGTHS: dict[str, Callable[[TraceRequest], int]] = {
    "prompt tokens": lambda one: one.prompt_tokens,
    "output tokens": lambda one: one.output_tokens,
    "both": lambda one: one.prompt_tokens + one.output_tokens,
}


@dataclass(frozen=True, slots=True)
class Option:
    """A number that changes the trace, and its bounds."""

    flag: str
    metavar: str
    least: float
    most: float
    help: str
    kind: Callable[[str], float] = float

    @property
    def name(self) -> str:
        """Of the parsed argument."""
        return self.flag.removeprefix("--").replace("-", "_")


OPTIONS = (
    Option("--start", "S", 0, 1e9, "leave out what arrives in the first S seconds"),
    Option("--duration", "S", 0.001, 1e9, "keep only what arrives within S seconds from there on"),
    Option("--rate", "R", 0.0001, 100_000, "stretch or compress time to R requests/s on average"),
    Option("--scale-tokens", "F", 0.0001, 1000, "multiply all lengths by F, for a shorter context window"),
    Option("--most-tokens", "N", 2, MOST_TOKENS, "leave out requests with more tokens, prompt and answer", int),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("file", type=Path, metavar="FILE", help="an Azure, BurstGPT, Mooncake or converted trace")
    parser.add_argument("--convert", type=Path, metavar="OUT", help="write the trace, as changed below, as our own")
    for option in OPTIONS:
        parser.add_argument(option.flag, type=option.kind, metavar=option.metavar, help=option.help)


def run(arguments: argparse.Namespace) -> int:
    """Print what the trace holds, and convert it where asked. Raises LoadTestError."""
    for option in OPTIONS:
        value = getattr(arguments, option.name)
        if value is not None and not option.least <= value <= option.most:
            raise LoadTestError(
                f"{option.flag} is {value:g}: it must be from {option.least:.10g} to {option.most:.10g}"
            )
    trace = changed(read(arguments.file), arguments)
    console = Console()
    for line in describe(trace):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print(lengths(trace))
    if arguments.convert is not None:
        try:
            write(trace, arguments.convert)
        except OSError as error:
            raise LoadTestError(f"the trace cannot be written to {arguments.convert}: {error.strerror}") from None
        console.print(f"Written: {arguments.convert}", highlight=False, soft_wrap=True, markup=False)
    return 0


def changed(trace: Trace, arguments: argparse.Namespace) -> Trace:
    """The trace as the options want it. Raises LoadTestError where nothing is left of it."""
    if arguments.start is not None or arguments.duration is not None:
        trace = cut(trace, arguments.start or 0.0, arguments.duration)
    if arguments.scale_tokens is not None:
        trace = scaled(trace, arguments.scale_tokens)
    if arguments.most_tokens is not None:
        trace = within(trace, arguments.most_tokens)
    # Last, so that the rate holds for what is left.
    return trace if arguments.rate is None else at_rate(trace, arguments.rate)


def describe(trace: Trace) -> Iterator[str]:
    """What the trace holds, but for its lengths, in sentences."""
    left_out = f"; left out for having no tokens: {trace.left_out}" if trace.left_out else ""
    rate = mean_rate(trace)
    yield (
        f"{trace.format} trace: {len(trace.requests)} requests in {trace.duration_s:.1f} s, "
        f"{'no rate' if rate is None else f'{rate:.3g} requests/s'}{left_out}"
    )
    regularity = burstiness(trace)
    if regularity is not None:
        yield f"Burstiness: {amount(regularity)} (1/CV² of the gaps between arrivals; 1: Poisson, below: bursts)"
    sessions = {one.session for one in trace.requests if one.session is not None}
    if sessions:
        yield f"Sessions: {len(sessions)}"
    reused = shared_prefix(trace)
    if reused is not None:
        yield f"Shared prefixes: {reused:.1%} of the prompt tokens, at most, were in an earlier prompt"


def burstiness(trace: Trace) -> float | None:
    """1 / CV² of the gaps between arrivals, which is the shape of gamma arrivals that are as bursty.

    None for fewer than three requests, and for arrivals at constant distance.
    """
    gaps = np.diff([one.at_s for one in trace.requests])
    if len(gaps) < 2 or not gaps.any() or np.allclose(gaps, gaps[0]):
        return None
    return float((gaps.mean() / gaps.std()) ** 2)


def shared_prefix(trace: Trace) -> float | None:
    """Share of the prompt tokens that an endless prefix cache would hold; None in a trace without ``hash_ids``."""
    if trace.block_tokens is None:
        return None
    seen: set[int] = set()
    hits = 0
    for request in trace.requests:
        known = next((n for n, name in enumerate(request.hash_ids) if name not in seen), len(request.hash_ids))
        hits += min(known * trace.block_tokens, request.prompt_tokens)
        seen.update(request.hash_ids)
    return hits / sum(request.prompt_tokens for request in trace.requests)


def lengths(trace: Trace) -> Table:
    """The lengths of prompts and answers."""
    table = Table()
    table.add_column("")
    for name in ("mean", *QUANTILES, "max"):
        table.add_column(name, justify="right")
    for name, length in LENGTHS.items():
        values = np.array([length(one) for one in trace.requests], dtype=np.float64)
        cells: Sequence[float] = [*percentiles(values, list(QUANTILES.values())), values.max()]
        table.add_row(name, amount(float(values.mean())), *(f"{cell:.0f}" for cell in cells))
    return table
