"""One finished run as the master collected it: what the figures, the verdict and the report are made from."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from loadtest._request import Record

KEY_FLAG, ADDRESS_FLAG = "--api-key", "--server-metrics"


@dataclass(slots=True)
class HealthSample:
    """How one load-generating process fared in one second."""

    worker: int
    t: float
    """End of that second, seconds since the start of the run."""
    cpu_share: float
    """CPU time the process took, as a share of one core: 1.0 is a core fully used."""
    loop_lag_s: float
    """The most by which the event loop woke up late in that second, seconds."""
    in_flight: int
    """Requests sent and not yet ended, at ``t``."""
    dispatched: int
    """Requests sent in that second."""


@dataclass(slots=True)
class RunData:
    """Every time in ``records`` and ``health`` is in seconds since the start of the run, on the master's clock."""

    records: list[Record]
    health: list[HealthSample]
    started_wall: float
    """Start of the run, seconds since the epoch."""
    duration_s: float
    """From the start until the last request was to be sent. Requests in flight then may end later."""
    warmup_s: float
    cooldown_s: float
    arrivals: dict[str, Any]
    """``kind`` (closed, constant, poisson, gamma, ramp, steps, spikes, trace) and what belongs to it."""
    workload: dict[str, Any]
    """``name``, ``hash`` of the file, with ``--trace`` the SHA-256 of its file as ``trace``, ``parameters``."""
    requested_rate: float | None
    """Open loop: the mean rate that the schedule asks for in the measured window, requests/s. Closed loop: None."""
    users: int | None
    """Closed loop: users. Open loop: None."""
    processes: int
    host: str
    model: str
    seed: int
    nonce: str
    command: str
    """As typed, without secrets: see ``shown_command``."""
    versions: dict[str, str]
    server: list[dict[str, Any]] = field(default_factory=list)
    """Samples of the server's own metrics."""

    @property
    def window(self) -> tuple[float, float]:
        """The measured window: after the warm-up and before the cool-down, seconds since the start of the run."""
        return self.warmup_s, max(self.warmup_s, self.duration_s - self.cooldown_s)

    @property
    def window_s(self) -> float:
        """Length of the measured window, seconds."""
        start, end = self.window
        return end - start

    def measured(self) -> list[Record]:
        """The requests that were to be sent (closed loop: were sent) in the measured window."""
        start, end = self.window
        return [record for record in self.records if start <= due(record) <= end]

    def measured_health(self) -> list[HealthSample]:
        """The samples of the seconds that ended in the measured window."""
        start, end = self.window
        return [sample for sample in self.health if start < sample.t <= end]


def due(record: Record) -> float:
    """When a request was to be sent; in a closed loop, when it was."""
    return record.sent if record.intended is None else record.intended


def shown_command(argv: Sequence[str]) -> str:
    """A command line for reports, ready to be pasted into a shell, without keys and what an address may hold of them.

    Locust's parser takes abbreviated flags, so that they are known here too.
    """
    words: list[str] = []
    mask: Callable[[str], str] | None = None
    for word in argv:
        flag, equals, value = word.partition("=")
        if mask is not None:
            words.append(mask(word))
            mask = None
        elif (mask := _mask(flag)) is not None and equals:
            words.append(f"{flag}={mask(value)}")
            mask = None
        else:
            words.append(word)
    return shlex.join(words)


def _mask(flag: str) -> Callable[[str], str] | None:
    """How the value of a flag is shown where it may be secret; None for the others."""
    if len(flag) > len("--") and KEY_FLAG.startswith(flag):
        return lambda _: "***"
    return shown if len(flag) > len("--") and ADDRESS_FLAG.startswith(flag) else None


def shown(url: str) -> str:
    """A URL for reports: without user, password and query, which may hold secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
