"""The self-test: how truthfully this machine measures, against a mock server that knows what it sent when.

The error of a time to first token is |first chunk seen − first chunk sent|, of an inter-token latency |gap seen − gap
sent|, all on the machine's one monotonic clock. It includes the loopback network, some tens of microseconds.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from loadtest._mock_process import ROOT, MockServerError, mock_server, take_truth
from loadtest._request import Record
from loadtest._selftest_client import Level, Measured

TTFT_ERROR_P99_S = 0.003
ITL_ERROR_MEAN_S = 0.001
ACHIEVED_SHARE = 0.95
"""Below this share of the requested tokens/s the client holds the load back: it sends too late."""
MOCK_LATE_S = 0.005
"""Mean lateness of the mock's own chunks past which it, not the client, is the limit."""
MOST_SECONDS = 80.0
LEVEL_OVERHEAD_S = 4.0
"""Starting a process, the warm-up, and fetching what was sent."""
ATTEMPTS = 2
"""A level that fails once is tried again: other work on the machine is no limit of the client."""
Progress = Callable[[str], None]


class SelftestError(Exception):
    """The self-test itself could not run."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one level showed. Times in seconds."""

    streams: int
    tokens_per_s: float
    requests: int
    failed: int
    achieved_tokens_per_s: float
    ttft_error_p50: float
    ttft_error_p99: float
    itl_error_mean: float
    loop_lag_p99: float
    cpu_share: float
    mock_late_mean: float
    reasons: list[str]
    """Why the level is not measured truthfully; empty where it is."""


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


def judge(level: Level, measured: Measured, sent: dict[str, Any]) -> Outcome:
    """Compare what was measured with what the mock sent (``requests`` of ``/mock/sent``)."""
    records = [Record.from_row(row) for row in measured.rows]
    good = [record for record in records if record.error is None and record.gaps and record.request_id in sent]
    times = {record.request_id: np.array(sent[record.request_id]["times"]) for record in good}
    first = [abs((record.first or 0.0) - times[record.request_id][0]) for record in good]
    gaps = [np.abs(np.array([gap for gap, _ in r.gaps]) - np.diff(times[r.request_id])) for r in good]
    late = [_lateness(truth) for truth in sent.values()]
    outcome = Outcome(
        streams=level.streams,
        tokens_per_s=level.tokens_per_s,
        requests=len(records),
        failed=len(records) - len(good),
        achieved_tokens_per_s=_achieved(level, records, sent),
        ttft_error_p50=_percentile(first, 50),
        ttft_error_p99=_percentile(first, 99),
        itl_error_mean=float(np.concatenate(gaps).mean()) if gaps else float("inf"),
        loop_lag_p99=_percentile(measured.loop_lags, 99),
        cpu_share=measured.cpu_share,
        mock_late_mean=float(np.concatenate(late).mean()) if late else 0.0,
        reasons=[],
    )
    outcome.reasons.extend(_reasons(level, outcome))
    return outcome


def _lateness(truth: dict[str, Any]) -> Any:
    times = np.array(truth["times"])
    return times - truth["first_due"] - np.arange(len(times)) * truth["itl_s"]


def _achieved(level: Level, records: list[Record], sent: dict[str, Any]) -> float:
    """Tokens per second that the mock sent while every stream was under way."""
    if not records:
        return 0.0
    start = min(record.sent for record in records)
    times = np.concatenate([np.array(truth["times"]) for truth in sent.values()])
    return float(np.count_nonzero((times >= start) & (times < start + level.seconds)) / level.seconds)


def _percentile(values: list[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else float("inf")


def _reasons(level: Level, outcome: Outcome) -> list[str]:
    reasons = []
    if outcome.failed or not outcome.requests:
        reasons.append(f"{outcome.failed} of {outcome.requests} requests failed")
    if outcome.ttft_error_p99 > TTFT_ERROR_P99_S:
        reasons.append(f"TTFT error p99 {outcome.ttft_error_p99 * 1e3:.1f} ms > {TTFT_ERROR_P99_S * 1e3:g} ms")
    if outcome.itl_error_mean > ITL_ERROR_MEAN_S:
        reasons.append(f"mean ITL error {outcome.itl_error_mean * 1e3:.2f} ms > {ITL_ERROR_MEAN_S * 1e3:g} ms")
    if outcome.achieved_tokens_per_s < ACHIEVED_SHARE * level.rate:
        reasons.append(f"{outcome.achieved_tokens_per_s:.0f} of {level.rate:.0f} tokens/s achieved")
    if reasons and outcome.mock_late_mean > MOCK_LATE_S:
        reasons.append(f"the mock server itself was {outcome.mock_late_mean * 1e3:.0f} ms late")
    return reasons


def selftest(level: Level, progress: Progress) -> Result:
    """Measure at ``level``, then at twice the streams until it fails, then once between. Raises SelftestError.

    No level starts that would not end within MOST_SECONDS.
    """
    deadline = time.monotonic() + MOST_SECONDS
    levels: list[Outcome] = []
    good, bad = 0, 0
    stopped_by = ""
    streams = level.streams
    with mock_server() as url:
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
    return Result(not levels[0].reasons, good, good * level.tokens_per_s, stopped_by, levels)


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
    module = "loadtest._selftest_client"
    command = [sys.executable, "-m", "gevent.monkey", "--module", module, url, json.dumps(asdict(level))]
    timeout = 2 * (level.seconds + LEVEL_OVERHEAD_S) + 30
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=True)
    except subprocess.TimeoutExpired:
        raise SelftestError(f"The measuring process did not end within {timeout:g} s; use fewer --streams.") from None
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().rpartition("\n")[2]
        raise SelftestError(f"The measuring process failed ({last}); check the installation.") from None
    return judge(level, Measured(**json.loads(done.stdout)), take_truth(url))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m loadtest selftest``."""
    parser.add_argument("--streams", type=int, default=64, help="streams at once in the first level (default: 64)")
    parser.add_argument("--tokens-per-s", type=float, default=50, help="tokens per second and stream (default: 50)")
    parser.add_argument("--seconds", type=float, default=5, help="seconds that each level is judged (default: 5)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the self-test. 0: the first level is within the bounds. 1: it is not. 2: a wrong option, or no result."""
    if not (1 <= args.streams <= 10_000 and 2 <= args.tokens_per_s <= 1000 and 1 <= args.seconds <= 30):
        print("--streams must be 1 to 10000, --tokens-per-s 2 to 1000 and --seconds 1 to 30.", file=sys.stderr)
        return 2
    level = Level(args.streams, args.tokens_per_s, args.seconds)
    try:
        result = selftest(level, lambda line: print(f"selftest: {line}", file=sys.stderr, flush=True))
    except (SelftestError, MockServerError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(asdict(result), indent=2))
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
        "loop lag\np99 ms",
        "CPU",
        "true",
    ):
        table.add_column(heading, justify="right")
    for one in result.levels:
        errors = (one.ttft_error_p50, one.ttft_error_p99, one.itl_error_mean, one.loop_lag_p99)
        cells = [f"{error * 1e3:.3f}" for error in errors]
        verdict = "no" if one.reasons else "yes"
        table.add_row(f"{one.streams}", f"{one.achieved_tokens_per_s:.0f}", *cells, f"{one.cpu_share:.0%}", verdict)
    console.print(table)
    limit = f"{result.limit_streams} streams, {result.limit_tokens_per_s:.0f} tokens/s in one process"
    console.print(
        f"Measured truthfully: {limit if result.limit_streams else 'nothing'}. Stopped by: {result.stopped_by}."
    )
