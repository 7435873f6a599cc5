"""Everything about a run that is decided before it, by one process, and told to all that generate load."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from loadtest._arrivals import Arrivals
from loadtest._calibration import Calibration
from loadtest._errors import LoadTestError
from loadtest._trace_formats import Trace, read
from loadtest._trace_scaling import at_rate
from loadtest._workload import Workload


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run. ``scenarios``: the name of each chosen class with its workloads and their weights."""

    host: str
    model: str
    seed: int
    nonce: str
    scenarios: dict[str, list[tuple[Workload, float]]]
    workload: str
    """Name of the workloads together."""
    arrivals: Arrivals
    trace: str | None
    duration_s: float | None
    """None: until somebody stops it."""
    warmup_s: float
    cooldown_s: float
    think_time_s: float | None
    request_timeout_s: float
    drain_s: float
    """Seconds that requests in flight at the end have left."""
    most_in_flight: int
    """For each process. Past it an arrival is dropped and counted."""
    users: int
    calibration: Calibration
    trace_sha256: str | None = None
    """Of the file of ``trace``."""

    @property
    def workloads(self) -> list[tuple[Workload, float]]:
        """The workloads of all scenarios."""
        return [pair for pairs in self.scenarios.values() for pair in pairs]

    def to_json(self) -> str:
        """For the other processes. The arrivals of a trace are left out: each reads the file itself."""
        slim = replace(self, arrivals=replace(self.arrivals, trace=()))
        return _ADAPTER.dump_json(slim).decode()

    @classmethod
    def from_json(cls, text: str) -> "RunPlan":
        """The plan of another process. Raises LoadTestError for a trace that this process cannot read."""
        plan = _ADAPTER.validate_json(text)
        if plan.arrivals.kind != "trace" or plan.trace is None:
            return plan
        return replace(plan, arrivals=with_trace(plan.arrivals, read_trace(plan.trace)))


_ADAPTER = TypeAdapter(RunPlan)


def read_trace(path: str) -> Trace:
    """A trace file. Raises LoadTestError."""
    return read(Path(path))


def trace_sha256(path: str) -> str:
    """What tells two trace files apart, whatever their names. Raises LoadTestError."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LoadTestError(f"the trace {path} cannot be read: {error.strerror}") from None


def with_trace(arrivals: Arrivals, trace: Trace) -> Arrivals:
    """The arrivals with those of a trace, at ``arrivals.rate`` on average where it is given. Raises LoadTestError."""
    scaled = trace if arrivals.rate is None else at_rate(trace, arrivals.rate)
    return replace(arrivals, trace=tuple(request.at_s for request in scaled.requests))
