"""Collects what the processes of a run measured, and turns it into a finished run."""

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from loadtest._agent import Batch
from loadtest._request import Record
from loadtest._run_data import HealthSample, RunData, shown_command
from loadtest._run_plan import RunPlan
from loadtest._workload import digest

PACKAGES = ("locust", "gevent", "numpy")


class Collector:
    """``observe`` gets every record as it comes in, times in seconds since the start of the run."""

    def __init__(self, plan: RunPlan, observe: Callable[[Record], None]) -> None:
        self.plan = plan
        self.started_wall = 0.0
        self.done: set[int] = set()
        """The processes that have delivered everything."""
        self._observe = observe
        self._records: list[Record] = []
        self._health: list[HealthSample] = []
        self._dropped: dict[int, int] = {}

    def take(self, batch: Batch) -> None:
        """Add what one process delivered."""
        worker = int(batch["worker"])
        for row in batch["records"]:
            record = Record.from_row(row)
            self._records.append(record)
            self._observe(record)
        self._health += [HealthSample(*row) for row in batch["health"]]
        self._dropped[worker] = batch["dropped"]
        if batch["done"]:
            self.done.add(worker)

    @property
    def dropped(self) -> int:
        """Arrivals that were not sent because too many requests were in flight."""
        return sum(self._dropped.values())

    def run_data(self, ended_s: float, processes: int, server: Sequence[dict[str, Any]]) -> RunData:
        """The run, which ended after so many seconds."""
        plan = self.plan
        duration = min(ended_s, plan.duration_s) if plan.duration_s is not None else ended_s
        run = RunData(
            records=sorted(self._records, key=lambda record: record.sent),
            health=sorted(self._health, key=lambda sample: (sample.t, sample.worker)),
            started_wall=self.started_wall,
            duration_s=round(duration, 6),
            warmup_s=plan.warmup_s,
            cooldown_s=plan.cooldown_s,
            arrivals=plan.arrivals.described(plan.seed) | ({"dropped": self.dropped} if self.dropped else {}),
            workload=self._workload(),
            requested_rate=None,
            users=None if plan.arrivals.open_loop else plan.users,
            processes=processes,
            host=plan.host,
            model=plan.model,
            seed=plan.seed,
            nonce=plan.nonce,
            command=shown_command(["locust", *sys.argv[1:]]),
            versions=versions(),
            server=list(server),
        )
        if plan.arrivals.open_loop:
            # An interrupted run has a shorter window of the same schedule: a ramp does not get steeper.
            planned = duration if plan.duration_s is None else plan.duration_s
            run.requested_rate = plan.arrivals.mean_rate(plan.seed, planned, run.window)
        return run

    def _workload(self) -> dict[str, Any]:
        plan = self.plan
        parameters: dict[str, Any] = {
            "scenarios": {
                name: [{"weight": weight, **_shown(workload.model_dump(mode="json"))} for workload, weight in pairs]
                for name, pairs in plan.scenarios.items()
            },
            "lengths": plan.calibration.source,
        }
        if plan.think_time_s is not None:
            parameters["think_time_s"] = plan.think_time_s
        trace = {} if plan.trace_sha256 is None else {"trace": plan.trace_sha256}
        return {"name": plan.workload, "hash": digest(plan.workloads), **trace, "parameters": parameters}


def _shown(values: dict[str, Any]) -> dict[str, Any]:
    """What a report says of a workload: of texts only how many or how long they are, as they may be private."""
    shown = {name: value for name, value in values.items() if value is not None and name != "description"}
    for name, unit in {"prompts": "texts", "system": "characters"}.items():
        if name in shown:
            shown[name] = f"{len(shown[name])} {unit}"
    return shown


def versions() -> dict[str, str]:
    """Of Python and of the packages that measure."""
    found = {"python": sys.version.split()[0]}
    for package in ("mistral-serve", *PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
