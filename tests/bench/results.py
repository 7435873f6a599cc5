"""What one run of the bench found, as the JSON file holds it. Times in seconds, sizes in bytes."""

import statistics
from typing import Any

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of the records: a file with an unknown key is not one of ours."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Load(Record):
    """One closed-loop load: ``concurrency`` requests run at any time. ``ttft_s`` and ``latency_s`` are per request."""

    concurrency: int
    wall_s: float
    prompt_tokens: int
    output_tokens: int
    ttft_s: list[float]
    latency_s: list[float]

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second, over the whole load."""
        return self.output_tokens / self.wall_s

    @property
    def ttft_p50_s(self) -> float:
        """Median time to first token."""
        return statistics.median(self.ttft_s)

    @property
    def ttft_p95_s(self) -> float:
        """95th percentile of the time to first token."""
        return percentile(self.ttft_s, 95)

    def describe(self) -> str:
        """Its main figures in one line, after the concurrency."""
        return f"{self.concurrency}: {self.tokens_per_s:.1f} tokens/s, TTFT p50 {self.ttft_p50_s * 1000:.0f} ms"


class Process(Record):
    """One process of a system: its idle memory, and the CPU time that it took during the loads.

    RSS counts every page that the process has in memory, PSS divides shared pages by the number of sharers.
    """

    name: str
    rss_bytes: int
    pss_bytes: int
    cpu_s: float


class Measured(Record):
    """One start of one system: how long it took, its processes, and its loads.

    ``others_share``: the share of the machine's CPU time, 0 to 1, that other programs than these and the client took
    during the loads.
    """

    start_s: float
    processes: list[Process]
    others_share: float
    loads: list[Load]

    def load(self, concurrency: int) -> Load:
        """The load at ``concurrency``; ``StopIteration`` when it was not measured."""
        return next(load for load in self.loads if load.concurrency == concurrency)

    @property
    def pss_bytes(self) -> int:
        """Idle memory of the whole family of processes."""
        return sum(process.pss_bytes for process in self.processes)


class Repeat(Record):
    """The three systems, measured one after another."""

    product: Measured
    vllm: Measured
    transformers: Measured


class Window(Record):
    """Long sequences on one running engine. ``window`` is None for full attention."""

    window: int | None
    kv_cache_tokens: int
    max_model_len: int
    sequences: float
    requests: int
    prompt_tokens: int
    output_tokens: int
    wall_s: float
    peak_running: int
    peak_decoding: int
    peak_kv_usage: float
    preemptions: int


class Bench(Record):
    """The whole run. ``windows`` holds the engine with the window first."""

    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    engine_arguments: dict[str, Any]
    commands: dict[str, str]
    workload: dict[str, Any]
    repeats: list[Repeat]
    windows: list[Window]


def percentile(values: list[float], percent: int) -> float:
    """The percentile with linear interpolation between the nearest ranks (Hyndman and Fan 1996, definition 7).

    ``percent`` is between 1 and 99. One value is its own percentile.
    """
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
