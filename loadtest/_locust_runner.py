"""One open-loop run of Locust as a process of its own, and its summary."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest._errors import LoadTestError, TrialError
from loadtest._files import SUMMARY, load_summary
from loadtest._schema import Summary

SCENARIOS = Path(__file__).resolve().parent
LOG = "locust.log"
GRACE_S = 60.0
"""For starting, for requests in flight at the end, and for the figures. Past it a run counts as stuck and is killed."""
END_S = 10.0
SHOWN_BYTES = 4000
USAGE_ERROR = 2


@dataclass(frozen=True, slots=True)
class LocustRunner:
    """Runs ``locust -f loadtest/ --headless`` at a rate; called with the rate and the number of the trial.

    ``report`` gets a directory for each trial; ``passthrough`` goes to Locust as it is.
    """

    host: str
    objectives: Sequence[str]
    arrivals: str
    duration_s: float
    warmup_s: float
    seed: int
    report: Path
    passthrough: Sequence[str]

    def __call__(self, rate: float, number: int) -> Summary:
        """Run one trial. Raises TrialError when Locust ends without a summary, or does not end.

        Raises LoadTestError when it refuses the flags, which are the same in every trial.
        """
        directory = self.report / f"trial-{number:02d}-rate-{rate:g}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / SUMMARY).unlink(missing_ok=True)
        with (directory / LOG).open("wb") as log:
            process = subprocess.Popen(
                self.command(rate, number, directory), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                process.wait(self.duration_s + self.warmup_s + GRACE_S)
            except subprocess.TimeoutExpired:
                raise TrialError(f"locust did not end at {rate:g} requests/s: see {directory / LOG}") from None
            finally:
                _end(process)
        try:
            return load_summary(directory)
        except LoadTestError:
            is_mistake = number == 0 and process.returncode == USAGE_ERROR
            kind = LoadTestError if is_mistake else TrialError
            raise kind(f"locust ended without a result: {_last_line(directory / LOG)}") from None

    def command(self, rate: float, number: int, directory: Path) -> list[str]:
        """The command line of a trial. Each trial has its own seed: repeats must not share their arrivals."""
        return [
            *(sys.executable, "-m", "locust", "-f", str(SCENARIOS), "--headless", "--host", self.host),
            *(
                "--arrivals",
                self.arrivals,
                "--rate",
                f"{rate:.6g}",
                "-t",
                f"{math.ceil(self.duration_s + self.warmup_s)}s",
            ),
            *("--warmup", f"{self.warmup_s:g}", "--seed", str(self.seed + number), "--report", str(directory)),
            *(word for objective in self.objectives for word in ("--slo", objective)),
            *self.passthrough,
        ]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a run, its worker processes too."""
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(process.pid, number)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            continue
        return


def _last_line(log: Path) -> str:
    lines = log.read_bytes()[-SHOWN_BYTES:].decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
