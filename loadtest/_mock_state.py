"""What the connections of one mock server share: its slots, its counters, and the truth about what it sent."""

from collections import deque
from itertools import count

from loadtest._mock_script import Script, Wording
from loadtest._mock_stream import Stream, Truth

KEPT_TRUTHS = 20_000
"""Requests. The oldest are forgotten."""
NOMINAL_SLOTS = 256
"""What full KV use means without a limit on concurrent requests."""


class State:
    """What the connections of one mock share."""

    def __init__(self, script: Script, model: str, slots: int | None, queue: int | None = None) -> None:
        """``slots`` requests run at once and ``queue`` more wait; None: any number."""
        self.script = script
        self.model = model
        self.truths: dict[str, Truth] = {}
        self.numbers = count()
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished = 0
        self.running: dict[int, Stream] = {}
        self._slots = slots
        self._queue = queue
        self._waiting: deque[tuple[int, Stream, Wording]] = deque()

    @property
    def full(self) -> bool:
        """Whether a further request would neither run nor find a place in the queue."""
        has_slot = self._slots is None or len(self.running) < self._slots
        return not has_slot and self._queue is not None and len(self._waiting) >= self._queue

    def admit(self, key: int, stream: Stream, wording: Wording) -> None:
        """Start the stream, now or when a slot is free."""
        self._waiting.append((key, stream, wording))
        self._start_waiting()

    def _start_waiting(self) -> None:
        while self._waiting and (self._slots is None or len(self.running) < self._slots):
            key, stream, wording = self._waiting.popleft()
            self.running[key] = stream
            self.prompt_tokens += wording.prompt_tokens
            stream.start()

    def release(self, key: int, tokens: int, *, complete: bool) -> None:
        """The stream of that key ended, or its client left while it ran or waited."""
        if self.running.pop(key, None) is not None:
            self.generation_tokens += tokens
            self.finished += complete
        else:
            self._waiting = deque(entry for entry in self._waiting if entry[0] != key)
        self._start_waiting()

    def remember(self, request_id: str, truth: Truth) -> None:
        """Keep what is sent for a request, and forget the oldest past the bound."""
        self.truths[request_id] = truth
        if len(self.truths) > KEPT_TRUTHS:
            del self.truths[next(iter(self.truths))]

    def metrics(self) -> str:
        """The counters and gauges under vLLM's names, in Prometheus' text format."""
        under_way = sum(stream.tokens for stream in self.running.values())
        values: list[tuple[str, str, float]] = [
            ("gauge", "vllm:num_requests_running", len(self.running)),
            ("gauge", "vllm:num_requests_waiting", len(self._waiting)),
            ("gauge", "vllm:kv_cache_usage_perc", min(1.0, len(self.running) / (self._slots or NOMINAL_SLOTS))),
            ("counter", "vllm:prompt_tokens", self.prompt_tokens),
            ("counter", "vllm:generation_tokens", self.generation_tokens + under_way),
            ("counter", "vllm:request_success", self.finished),
            ("counter", "vllm:num_preemptions", 0),
        ]
        lines = []
        for kind, name, value in values:
            sample = f"{name}_total" if kind == "counter" else name
            lines.append(f'# TYPE {sample} {kind}\n{sample}{{engine="0",model_name="{self.model}"}} {float(value)}\n')
        return "".join(lines)
