"""From a workload to the requests of a run: request k is a function of seed, nonce and k alone."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtest._calibration import Calibration, messages_of
from loadtest._request import RequestSpec
from loadtest._trace_formats import Trace, TraceRequest
from loadtest._words import FIRST, Book
from loadtest._workload import Lognormal, Normal, Workload

NONCE_WORDS = 3
REQUEST_WORDS = 3
HEAD_WORDS = NONCE_WORDS + REQUEST_WORDS
"""What makes a prompt unlike every other one, at its very beginning, so that no cached prefix fits."""


@dataclass(slots=True)
class Conversation:
    """A chat of several turns."""

    workload: Workload
    turns_left: int
    messages: list[dict[str, str]] = field(default_factory=list)
    ready_at: float = 0.0
    """``perf_counter`` time at which the user has thought long enough."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A request that is ready to be sent."""

    spec: RequestSpec
    workload: Workload
    conversation: Conversation | None
    think_s: float
    """Drawn pause after the answer."""


class Requests:
    """Makes requests. Text is sliced out of one long text that is written before the run, so that it costs nothing."""

    def __init__(
        self,
        workloads: Sequence[tuple[Workload, float]],
        calibration: Calibration,
        model: str,
        seed: int,
        nonce: str,
        trace: Trace | None = None,
    ) -> None:
        self._workloads = workloads
        self._calibration = calibration
        self._model = model
        self._seed = seed
        self._trace = trace
        self._book = Book(calibration.words, f"{seed} {nonce}")
        number = int.from_bytes(hashlib.sha256(nonce.encode()).digest()[:8])
        self._nonce = FIRST + self._book.named(number, NONCE_WORDS)

    def plan(
        self,
        index: int,
        conversation: Conversation | None = None,
        among: Sequence[tuple[Workload, float]] | None = None,
    ) -> Planned:
        """Request ``index``: the next turn of the conversation, or else a new one, of a workload drawn among these."""
        source = random.Random(f"{self._seed} {index}")  # noqa: S311 (a reproducible load, no secrets)
        if conversation is not None:
            workload = conversation.workload
        else:
            workloads, weights = zip(*(among or self._workloads), strict=True)
            workload = source.choices(workloads, weights)[0]
        traced = self._traced(index) if workload.uses_trace else None
        output = traced.output_tokens if traced else _draw(workload.output_tokens, source)
        if conversation is None and workload.turns > 1:
            conversation = Conversation(workload, workload.turns)
        later = conversation is not None and bool(conversation.messages)
        text, expected = self._text(workload, index, source, traced, later=later)
        messages = None
        if workload.api == "chat":
            new = messages_of(workload, text)
            messages = [*conversation.messages, new[-1]] if conversation is not None and later else new
        spec = RequestSpec(
            api=workload.api,
            model=self._model,
            scenario=workload.name,
            messages=messages,
            prompt=text if messages is None else None,
            max_tokens=output,
            extra=self._extra(workload),
            cancel_after_tokens=self._hangs_up_after(workload, source),
            expected_prompt_tokens=expected,
        )
        think = source.expovariate(1 / workload.think_time_s) if workload.think_time_s else 0.0
        return Planned(spec, workload, conversation, think)

    def _traced(self, index: int) -> TraceRequest | None:
        return None if self._trace is None else self._trace.requests[index % len(self._trace.requests)]

    def _extra(self, workload: Workload) -> dict[str, Any]:
        forced = workload.ignore_eos and self._calibration.ignore_eos
        return ({"ignore_eos": True} if forced else {}) | workload.body

    def _hangs_up_after(self, workload: Workload, source: random.Random) -> int | None:
        if workload.cancel is None or source.random() >= workload.cancel.share:
            return None
        return workload.cancel.after_tokens

    def _text(
        self, workload: Workload, index: int, source: random.Random, traced: TraceRequest | None, *, later: bool
    ) -> tuple[str, int | None]:
        """The prompt, and its length in tokens where it is known before."""
        if workload.prompts is not None:
            return workload.prompts[index % len(workload.prompts)], None
        length = workload.prompt_tokens if not later or workload.turn_tokens is None else workload.turn_tokens
        tokens = traced.prompt_tokens if traced else _draw(length, source)
        if later:
            # The first word is a token of the message too. The history before it is unlike any other: no nonce.
            words = max(REQUEST_WORDS, round((tokens - 1) / self._calibration.per_word))
            return FIRST + self._body(index, source, words), None
        words = self._calibration.words_for(workload.name, tokens)
        if traced is not None and traced.hash_ids:
            return self._of_blocks(workload, traced, words)
        prefix = self._prefix(workload, source)
        total = max(words, NONCE_WORDS + prefix[1] + REQUEST_WORDS)
        text = self._nonce + prefix[0] + self._body(index, source, total - NONCE_WORDS - prefix[1])
        return text, self._calibration.tokens_of(workload.name, total)

    def _body(self, index: int, source: random.Random, words: int) -> str:
        """So many words, the first ones unlike those of any other request."""
        unique = self._book.named(index, REQUEST_WORDS)
        return unique + self._book.slice(source.getrandbits(30), words - REQUEST_WORDS)

    def _prefix(self, workload: Workload, source: random.Random) -> tuple[str, int]:
        """One of the shared prefixes after the nonce, and its words."""
        if workload.shared_prefix is None:
            return "", 0
        group = source.randrange(workload.shared_prefix.count)
        words = max(2, round(workload.shared_prefix.tokens / self._calibration.per_word) - NONCE_WORDS - 1)
        return self._book.named(group, 2) + self._book.slice(group * 7919, words - 2), words

    def _of_blocks(self, workload: Workload, traced: TraceRequest, words: int) -> tuple[str, int | None]:
        """A prompt of a trace's named blocks: equal names give equal text, and so the trace's own prefix hits."""
        assert self._trace is not None
        block = max(1, round((self._trace.block_tokens or 1) / self._calibration.per_word))
        total = max(words, NONCE_WORDS + 1)
        left, pieces = total - NONCE_WORDS, [self._nonce]
        for position, name in enumerate(traced.hash_ids):
            # The last block is as long as the prompt needs; the first one makes room for the nonce.
            full = block - (NONCE_WORDS + 1 if position == 0 else 0)
            size = left if position == len(traced.hash_ids) - 1 else min(left, max(0, full))
            pieces.append(self._block(name, size))
            left -= size
        return "".join(pieces), self._calibration.tokens_of(workload.name, total)

    def _block(self, name: int, words: int) -> str:
        named = min(words, REQUEST_WORDS)
        return self._book.named(name, named) + self._book.slice(name * 7919, words - named)


def _draw(length: Any, source: random.Random) -> int:
    if isinstance(length, Normal | Lognormal):
        return length.draw(source)
    if isinstance(length, int):
        return length
    raise ValueError("lengths of a trace need --trace")
