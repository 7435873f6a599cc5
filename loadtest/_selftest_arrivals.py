"""The part of the self-test that sends on schedule: how late an open loop at 400 arrivals/s is in one process.

It is run with ``python -m gevent.monkey --module``, so that gevent patches first, as under Locust.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np

from loadtest._arrivals import Arrivals
from loadtest._calibration import Calibration
from loadtest._client import settle_memory
from loadtest._generator import Generator, Place
from loadtest._request import ErrorKind, Record
from loadtest._run_plan import RunPlan
from loadtest._statistics import percentile
from loadtest._workload import Workload

RATE = 400.0
"""Requests/s."""
LAG_P99_S = 0.010
"""The promise; past it a run calls itself SUSPECT."""
WARM_UP_S, SECONDS = 1.0, 5.0
"""What is due in the warm-up is not judged: connections are new."""
DRAIN_S = 5.0
SCHEDULE = {"mock": {"ttft_s": 0.02, "itl_s": 0.01}}


@dataclass(frozen=True, slots=True)
class Dispatch:
    """What became of the schedule."""

    requested_rate: float
    """Requests/s that the schedule holds in the judged seconds."""
    achieved_rate: float
    """Of those, requests/s that were answered."""
    lag_p50: float
    """Seconds from the intended time until the client was ready to send."""
    lag_p99: float

    @property
    def punctual(self) -> bool:
        """Whether everything was sent, and in time."""
        return self.achieved_rate == self.requested_rate and self.lag_p99 <= LAG_P99_S


def plan_of(url: str, rate: float, seconds: float) -> RunPlan:
    """A run of short answers: what is judged is the sending."""
    workload = Workload(name="selftest", prompt_tokens=20, output_tokens=4, body=SCHEDULE)
    return RunPlan(
        host=url,
        model="mock",
        seed=1,
        nonce="selftest",
        scenarios={"Selftest": [(workload, 1.0)]},
        workload="selftest",
        arrivals=Arrivals("poisson", rate),
        trace=None,
        duration_s=WARM_UP_S + seconds,
        warmup_s=WARM_UP_S,
        cooldown_s=0.0,
        think_time_s=None,
        request_timeout_s=WARM_UP_S + seconds + DRAIN_S,
        drain_s=DRAIN_S,
        most_in_flight=10_000,
        users=1,
        calibration=Calibration(),
    )


def measure(url: str, rate: float = RATE, seconds: float = SECONDS) -> Dispatch:
    """Send the schedule to the mock server at ``url``, with the generator of a run."""
    plan, records = plan_of(url, rate, seconds), list[Record]()
    generator = Generator(plan, None, records.append)
    settle_memory()
    start = time.perf_counter()
    generator.run(Place(0, 1, start))
    generator.drain(DRAIN_S, ErrorKind.TIMEOUT, "not answered")
    due = [t for t in plan.arrivals.times(plan.seed, plan.duration_s) if t >= WARM_UP_S]
    judged = [one for one in records if one.error is None and (one.intended or 0.0) - start >= WARM_UP_S - 1e-6]
    lags = np.array([one.lag for one in judged], dtype=np.float64)
    known = len(lags) > 0
    return Dispatch(
        requested_rate=len(due) / seconds,
        achieved_rate=len(judged) / seconds,
        lag_p50=percentile(lags, 0.5) if known else float("inf"),
        lag_p99=percentile(lags, 0.99) if known else float("inf"),
    )


def main() -> None:
    """``URL``; what was measured goes to standard output as JSON."""
    json.dump(asdict(measure(sys.argv[1])), sys.stdout)


if __name__ == "__main__":
    main()
