"""The schema of ``summary.json``: times in milliseconds, rates per second of the window, shares from 0 to 1."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION: Literal[1] = 1
"""Raised when a field changes its meaning or goes away; a new field does not raise it."""

Level = Literal["VALID", "SUSPECT", "INVALID"]
Check = Literal[
    "requests",
    "server",
    "rate",
    "lag",
    "health",
    "cpu",
    "loop",
    "tokens",
    "prompts",
    "prefix_hits",
    "steady_state",
    "records",
    "samples",
]


class Part(BaseModel):
    """A part of the summary. Unknown fields are refused: they come from another version."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RunInfo(Part):
    """What ran, and with what."""

    command: str = Field(description="The command line, without secrets.")
    host: str = Field(description="Base URL of the server.")
    model: str = Field(description="The model asked for.")
    versions: dict[str, str] = Field(description="Versions of the packages that measured.")
    seed: int = Field(description="Seed of the arrivals, the lengths and the prompts.")
    nonce: str = Field(
        description="Text at the start of every prompt that keeps earlier runs' prefixes from being hit."
    )
    started: str = Field(description="Start of the run, ISO 8601, UTC.")
    duration_s: float = Field(description="From the start until the last request was to be sent.")
    warmup_s: float = Field(description="Left out at the beginning.")
    cooldown_s: float = Field(description="Left out at the end.")
    processes: int = Field(description="Processes that generated load.")
    users: int | None = Field(description="Closed loop: users.")
    arrivals: dict[str, Any] = Field(description="`kind`, and its parameters.")
    workload: dict[str, Any] = Field(
        description="`name`, `hash` of the file, `trace` (SHA-256 of its file), `parameters`."
    )


class Load(Part):
    """What was asked of the server."""

    requested_rate: float | None = Field(description="Open loop: requests/s that the schedule asks for.")
    achieved_rate: float | None = Field(description="Requests/s sent of those due in the window.")
    in_flight: float | None = Field(description="L: mean number of requests in flight, from the records.")
    in_flight_sampled: float | None = Field(description="The same as the client's processes counted it every second.")
    little: float | None = Field(description="λW: achieved rate × mean time from sending to the end.")
    little_residual: float | None = Field(description="(L − λW) / λW: about 0 in a steady state.")


class Requests(Part):
    """How the requests of the measured window ended."""

    sent: int = Field(description="All of them.")
    completed: int = Field(description="Answered to the end.")
    failed: int = Field(description="Ended with an error.")
    cancelled: int = Field(description="The client hung up because the scenario says so: no failure.")
    excluded: int = Field(description="Requests of the warm-up and the cool-down, which no latency figure counts.")
    error_rate: float | None = Field(description="failed / (sent − cancelled).")
    errors: dict[str, int] = Field(description="Failed requests by kind.")
    details: dict[str, int] = Field(description="The most frequent errors in words, at most ten, with their number.")


class Tokens(Part):
    """Tokens of the requests of the measured window."""

    prompt: int = Field(description="Prompt tokens, as the server counted them.")
    output: int = Field(description="Output tokens.")
    cached: int | None = Field(description="Prompt tokens from the prefix cache; null when the server does not say.")
    prefix_hit_rate: float | None = Field(description="cached / prompt, over the requests for which both are known.")
    sources: dict[str, int] = Field(
        description="Where a request's output tokens were counted, with the number of requests."
    )


class Distribution(Part):
    """A latency in milliseconds. A percentile is the smallest value that this share of the samples does not exceed."""

    count: int = Field(description="Samples; of `itl`, tokens.")
    mean: float | None = Field(description="Arithmetic mean.")
    p50: float | None = Field(description="Median.")
    p90: float | None = Field(description="90th percentile; wants 100 samples.")
    p95: float | None = Field(description="95th percentile; wants 200 samples.")
    p99: float | None = Field(description="99th percentile; wants 1000 samples.")
    max: float | None = Field(description="Largest value.")


class Metrics(Part):
    """Latencies."""

    ttft: Distribution = Field(
        description="Time to first token: first − sent. Every request that got a token. A new connection is in it."
    )
    schedule_ttft: Distribution = Field(
        description="first − intended. Open loop: what a user felt who could not wait to send."
    )
    itl: Distribution = Field(
        description="Inter-token latency: gap between chunks / tokens in the chunk; each token counts."
    )
    tpot: Distribution = Field(description="Time per output token: (E2E − TTFT) / (n − 1). Completed requests.")
    e2e: Distribution = Field(description="ended − sent. Completed requests.")
    largest_stall: Distribution = Field(description="A request's largest gap between two chunks.")
    lag: Distribution = Field(description="sent − intended: how late the client was. Open loop.")


class Throughput(Part):
    """What the server did in the measured window, whichever request it was for."""

    requests_per_s: float | None = Field(description="Requests completed in the window.")
    prompt_tokens_per_s: float | None = Field(
        description="Prompt tokens of the requests whose first token arrived in the window."
    )
    output_tokens_per_s: float | None = Field(description="Output tokens that arrived in the window.")
    tokens_per_s_per_user: float | None = Field(
        description="Output tokens / seconds that their requests took: what one waiting user sees."
    )


class Goodput(Part):
    """Requests of the window that completed and met every latency objective themselves."""

    requests_per_s: float | None = Field(description="Such requests per second.")
    share: float | None = Field(description="Their share of all but the cancelled requests.")
    tokens_on_time: float | None = Field(
        description="Share of tokens that came by sent + TTFT bound + k × ITL (or TPOT) bound; null without both."
    )


class Figures(Part):
    """The figures of all requests, or of one scenario's."""

    requests: Requests
    tokens: Tokens
    metrics: Metrics
    throughput: Throughput
    goodput: Goodput | None = Field(description="Null without objectives.")


class Client(Part):
    """Whether the client kept up: over the samples of every process and second of the window."""

    samples: int = Field(description="Samples: processes × seconds.")
    cpu_p95: float | None = Field(description="CPU as a share of one core, 95th percentile over the samples.")
    cpu_max: float | None = Field(description="Its largest value.")
    loop_lag_p95_ms: float | None = Field(
        description="How late the event loop woke up at worst in a second, 95th percentile."
    )
    loop_lag_max_ms: float | None = Field(description="Its largest value.")


class ObjectiveResult(Part):
    """One objective and what became of it."""

    text: str = Field(description="As given.")
    metric: str = Field(description="What it bounds.")
    bound: float = Field(description="In the unit of the metric: ms, a share, or per second.")
    value: float | None = Field(description="The measured value, in the same unit.")
    interval: tuple[float, float] | None = Field(
        description="95 % bootstrap interval of a latency, whole requests drawn."
    )
    met: bool = Field(description="False too when there is no value.")


class Reason(Part):
    """One finding against the run."""

    level: Literal["SUSPECT", "INVALID"] = Field(description="How bad it is.")
    check: Check = Field(description="Which check found it.")
    text: str = Field(description="One sentence with the value and the limit.")


class Verdict(Part):
    """Whether the figures can be trusted."""

    level: Level = Field(description="The worst of the reasons; VALID without any.")
    reasons: list[Reason]


class Summary(Part):
    """A run in figures."""

    schema_version: Literal[1] = SCHEMA_VERSION
    exit_code: Literal[0, 1, 3] = Field(
        description="0: met and VALID. 1: an objective missed. 3: the run cannot be trusted."
    )
    verdict: Verdict
    objectives: list[ObjectiveResult]
    run: RunInfo
    load: Load
    client: Client
    total: Figures
    scenarios: dict[str, Figures] = Field(description="The same by scenario.")
