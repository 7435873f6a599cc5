"""Every metric name of our own, once. They stand beside vLLM's on each replica's ``/metrics``.

A key's name is a label, its value never is. Counters get the suffix ``_total`` from prometheus-client.
"""

from prometheus_client import Counter, Gauge, Histogram

_PREFIX = "mistral_serve_"
_STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

REQUESTS = Counter(f"{_PREFIX}requests", "Finished requests.", ["key", "route", "status"])
BROKEN_ANSWERS = Counter(
    f"{_PREFIX}broken_answers", "Answers that broke off, or ended with an error after they had begun.", ["key", "route"]
)
TOKENS = Counter(f"{_PREFIX}tokens", "Tokens of prompts and completions.", ["key", "kind"])
REJECTIONS = Counter(f"{_PREFIX}rejections", "Requests that the gateway refused.", ["key", "reason"])
HANG_UPS = Counter(f"{_PREFIX}hang_ups", "Requests whose client went away before the end.", ["key"])
ONGOING = Gauge(f"{_PREFIX}ongoing_requests", "Requests that this replica serves now.")
STAGE_SECONDS = Histogram(
    f"{_PREFIX}stage_seconds", "Time that requests spent in a stage.", ["stage"], buckets=_STAGE_BUCKETS
)
ESTIMATED_WAIT = Gauge(f"{_PREFIX}estimated_wait_seconds", "Wait before the first token that a new request would have.")
DRAIN_RATE = Gauge(f"{_PREFIX}drain_rate", "What the engine frees in a second while it is busy.", ["resource"])
ADMITTED_KV_BYTES = Gauge(f"{_PREFIX}admitted_kv_bytes", "KV cache that the accepted requests may come to need.")
QUOTA_FAILURES = Counter(f"{_PREFIX}quota_failures", "Times that the quota's counts could not be reached.")
MODERATIONS = Counter(f"{_PREFIX}moderations", "Judgements of the moderation endpoint.", ["stage", "verdict"])
MODERATION_SECONDS = Histogram(
    f"{_PREFIX}moderation_seconds",
    "Time that prompts, and pieces of completions, waited for a judgement.",
    ["stage"],
    buckets=_STAGE_BUCKETS,
)
