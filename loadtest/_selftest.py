"""``python -m loadtest selftest``: how truthfully this machine measures, against a mock that knows what it sent."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from loadtest import _selftest_arrivals
from loadtest._errors import LoadTestError
from loadtest._mock_process import ROOT, mock_server, take_truth
from loadtest._selftest_arrivals import LAG_P99_S, RATE, SECONDS, WARM_UP_S, Dispatch
from loadtest._selftest_client import Level, Measured
from loadtest._selftest_outcome import Outcome, judge

CLIENT, ARRIVALS = "loadtest._selftest_client", _selftest_arrivals.__name__
MOST_SECONDS = 80.0
LEVEL_OVERHEAD_S = 4.0
"""Starting a process, the warm-up, and fetching what was sent."""
ATTEMPTS = 2
"""A level that fails once is tried again: other work on the machine is no limit of the client."""
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on this machine."""

    passed: bool
    """The first level is within the bounds."""
    limit_streams: int
    limit_tokens_per_s: float
    """The largest load that was measured truthfully, of all streams together; 0 where none was."""
    stopped_by: str
    levels: list[Outcome]
    dispatch: Dispatch


def selftest(level: Level, progress: Progress) -> Result:
    """Measure an open loop; then ``level``, twice its streams until it fails, and once between. Raises LoadTestError.

    No level starts that would not end within MOST_SECONDS.
    """
    deadline = time.monotonic() + MOST_SECONDS
    levels: list[Outcome] = []
    good, bad = 0, 0
    stopped_by = ""
    streams = level.streams
    with mock_server() as url:
        progress(f"{RATE:g} arrivals/s for {SECONDS:g} s")
        dispatch = _dispatch(url)
        while not stopped_by:
            outcome = _attempts(url, Level(streams, level.tokens_per_s, level.seconds), progress, deadline)
            levels.append(outcome)
            good, bad = (good, streams) if outcome.reasons else (streams, bad)
            streams = (good + bad) // 2 if bad else 2 * good
            if outcome.reasons:
                stopped_by = "; ".join(outcome.reasons)
            if time.monotonic() + level.seconds + LEVEL_OVERHEAD_S > deadline:
                stopped_by = stopped_by or "the time for the self-test: more may be possible"
        if bad and time.monotonic() + level.seconds + LEVEL_OVERHEAD_S < deadline:
            levels.append(_attempts(url, Level(streams, level.tokens_per_s, level.seconds), progress, deadline))
            good = good if levels[-1].reasons else streams
    return Result(not levels[0].reasons, good, good * level.tokens_per_s, stopped_by, levels, dispatch)


def _attempts(url: str, level: Level, progress: Progress, deadline: float) -> Outcome:
    for attempt in range(1, ATTEMPTS + 1):
        again = "" if attempt == 1 else ", again"
        progress(f"{level.streams} streams x {level.tokens_per_s:g} tokens/s for {level.seconds:g} s{again}")
        outcome = _one_level(url, level)
        is_hopeless = outcome.failed or time.monotonic() + level.seconds + LEVEL_OVERHEAD_S > deadline
        if not outcome.reasons or is_hopeless:
            break
    return outcome


def _one_level(url: str, level: Level) -> Outcome:
    measured = Measured(**_measured(level.seconds, CLIENT, url, json.dumps(asdict(level))))
    return judge(level, measured, take_truth(url))


def _dispatch(url: str) -> Dispatch:
    dispatch = Dispatch(**_measured(WARM_UP_S + SECONDS, ARRIVALS, url))
    take_truth(url)
    return dispatch


def _measured(seconds: float, module: str, *words: str) -> dict[str, Any]:
    """What a measuring process prints. Raises LoadTestError."""
    command = [sys.executable, "-m", "gevent.monkey", "--module", module, *words]
    timeout = 2 * (seconds + LEVEL_OVERHEAD_S) + 30
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=True)
    except subprocess.TimeoutExpired:
        raise LoadTestError(f"the measuring process did not end within {timeout:g} s: use fewer --streams") from None
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().rpartition("\n")[2]
        raise LoadTestError(f"the measuring process failed ({last}): check the installation") from None
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m loadtest selftest``."""
    parser.add_argument("--streams", type=int, default=64, help="streams at once in the first level (default: 64)")
    parser.add_argument("--tokens-per-s", type=float, default=50, help="tokens per second and stream (default: 50)")
    parser.add_argument("--seconds", type=float, default=5, help="seconds that each level is judged (default: 5)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the self-test. 0: the first level is within the bounds. 1: it is not. Raises LoadTestError."""
    if not (1 <= args.streams <= 10_000 and 2 <= args.tokens_per_s <= 1000 and 1 <= args.seconds <= 30):
        raise LoadTestError("--streams must be 1 to 10000, --tokens-per-s 2 to 1000 and --seconds 1 to 30")
    level = Level(args.streams, args.tokens_per_s, args.seconds)
    result = selftest(level, lambda line: print(f"selftest: {line}", file=sys.stderr, flush=True))
    if args.json:
        print(TypeAdapter(Result).dump_json(result, indent=2).decode())
    else:
        _print(result)
    return 0 if result.passed else 1


def _print(result: Result) -> None:
    console = Console()
    table = Table(title="Error of the client against what the mock server sent")
    for heading in (
        "streams",
        "tokens/s",
        "TTFT\np50 ms",
        "TTFT\np99 ms",
        "ITL\nmean ms",
        "loop lag\nmax ms",
        "CPU",
        "true",
        "verdict of\na run",
    ):
        table.add_column(heading, justify="right")
    for one in result.levels:
        errors = (one.ttft_error_p50, one.ttft_error_p99, one.itl_error_mean, one.loop_lag_max)
        cells = [f"{error * 1e3:.3f}" for error in errors]
        true = "no" if one.reasons else "yes"
        cells += [f"{one.cpu_share:.0%}", true, one.verdict.level]
        table.add_row(f"{one.streams}", f"{one.achieved_tokens_per_s:.0f}", *cells)
    console.print(table)
    console.print(_sentence(result.dispatch), highlight=False, soft_wrap=True)
    limit = f"{result.limit_streams} streams, {result.limit_tokens_per_s:.0f} tokens/s in one process"
    console.print(
        f"Measured truthfully: {limit if result.limit_streams else 'nothing'}. Stopped by: {result.stopped_by}."
    )


def _sentence(dispatch: Dispatch) -> str:
    word = "punctual" if dispatch.punctual else "not punctual"
    return (
        f"Open loop: {word}: {dispatch.achieved_rate:.0f} of {dispatch.requested_rate:.0f} requests/s, "
        f"dispatch lag p99 {dispatch.lag_p99 * 1e3:.2f} ms (limit {LAG_P99_S * 1e3:g})."
    )
