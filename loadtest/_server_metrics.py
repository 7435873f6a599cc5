"""What a server says of itself on its Prometheus page, as one flat sample for each replica that is seen."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

Sample = dict[str, Any]
"""``source`` (the page's URL), ``replica`` (None where the page names none), ``t`` (seconds), and one number for each
name below that the page holds; or ``source``, ``t`` and ``error`` where it could not be read."""

GAUGES = {
    "num_requests_running": "running",
    "num_requests_waiting": "waiting",
    "kv_cache_usage_perc": "kv_usage",
    "mistral_serve_ongoing_requests": "ongoing",
    "mistral_serve_estimated_wait_seconds": "estimated_wait_s",
    "mistral_serve_drain_rate": "drain_rate",
}
COUNTERS = {
    "num_preemptions_total": "preemptions",
    "prefix_cache_queries_total": "prefix_queries",
    "prefix_cache_hits_total": "prefix_hits",
    "prompt_tokens_total": "prompt_tokens",
    "generation_tokens_total": "generation_tokens",
    "request_success_total": "finished",
    "request_queue_time_seconds_sum": "queue_time_sum",
    "request_queue_time_seconds_count": "queue_time_count",
    "mistral_serve_rejections_total": "rejections",
}
NAMES = GAUGES | COUNTERS
MEANS = ("kv_usage",)
"""Of several engines behind one replica the mean is taken; every other value is added up."""
PREFIXES = ("ray_vllm_", "vllm:", "vllm_", "ray_mistral_serve_", "mistral_serve_")
"""vLLM's own names, and those that Ray gives to the same metrics on its metrics port."""
REPLICA_LABELS = ("replica", "ReplicaId", "pod")
STARTED = "process_start_time_seconds"
"""Tells two replicas apart that one address answers for in turn; it is exact to 10 ms."""


def parse(text: str, source: str) -> list[Sample]:
    """The samples of one page, without their time. Raises ValueError for text that is not Prometheus' format."""
    found: dict[str | None, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    started: float | None = None
    for family in text_string_to_metric_families("\n".join(_wanted(text))):
        for sample in family.samples:
            if sample.name == STARTED:
                started = float(sample.value)
                continue
            name = _short(sample.name)
            replica = next((sample.labels[label] for label in REPLICA_LABELS if sample.labels.get(label)), None)
            if name == "drain_rate":
                name = f"drain_rate_{sample.labels.get('resource', 'unknown')}"
            if name is not None and sample.value == sample.value:  # not NaN: nothing measured yet
                found[replica][name].append(float(sample.value))
    only = None if started is None else f"process {started:.2f}"
    return [
        {"source": source, "replica": replica or only, **{name: _joined(name, each) for name, each in values.items()}}
        for replica, values in found.items()
    ]


def _wanted(text: str) -> Iterator[str]:
    """The lines with metrics that are asked for: a page has thousands, and the load shares this process."""
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name == STARTED or _short(name) is not None:
            yield line


def _short(name: str) -> str | None:
    if name in NAMES:
        return NAMES[name] if name.startswith("mistral_serve_") else None
    prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
    if prefix is None:
        return None
    rest = name.removeprefix(prefix)
    return NAMES.get(f"mistral_serve_{rest}" if "mistral_serve" in prefix else rest)


def _joined(name: str, values: Sequence[float]) -> float:
    return sum(values) / len(values) if name in MEANS else sum(values)
