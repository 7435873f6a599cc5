"""Measures what every request has of the engine, and asks admission before the engine is given it.

vLLM's serving code calls ``engine_client.generate`` with the tokens of the prompt before a byte of the answer is sent;
for a streamed ``/v1/responses`` that is the work of ``deploy.gateway.late_start``. Tokens are counted where the
engine's outputs are put together, in its own state of each sequence: so they are right for every way in which callers
take outputs, and for clients that went away without one.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from deploy.gateway.admission import Admission, Ticket
from deploy.gateway.at_end import at_end
from deploy.gateway.errors import ApiError, Refused
from deploy.gateway.limits import check_prompt, count_refusal
from deploy.gateway.request import RequestRecord, current
from deploy.metrics import REJECTIONS
from deploy.settings import LimitSettings

LARGEST_TOP_K = 2**31 - 1


def vllm_error(error: ApiError) -> Exception:
    """An exception that vLLM answers with the status of ``error``, without a trace in its log."""
    from vllm.exceptions import GracefulHTTPError

    exception: Exception = GracefulHTTPError(error.message, HTTPStatus(error.status))
    return exception


@dataclass
class EngineCall:
    """One call of ``generate`` for a request; one request makes several for several prompts or a beam search.

    ``prompt_tokens`` are those to be charged. ``states`` are vLLM's ``RequestState`` of each sequence
    (``v1/engine/output_processor.py``).
    """

    record: RequestRecord
    ticket: Ticket | None
    prompt_tokens: int
    states: list[Any] = field(default_factory=list)
    entered: float = 0.0
    counted: int = 0
    task: "asyncio.Task[Any] | None" = None
    """The task that waits for outputs now."""

    def enter(self, state: Any) -> None:
        """The engine is given a sequence."""
        self.states.append(state)
        if len(self.states) > 1:
            return
        self.entered = time.monotonic()
        record = self.record
        record.prompt_tokens += self.prompt_tokens
        if record.engine_entered is None:
            record.engine_entered = self.entered
        if self.ticket is not None:
            self.ticket.watch(self.has_first_token)

    def has_first_token(self) -> bool:
        """Whether a sequence has one."""
        return any(not state.is_prefilling for state in self.states)

    def first_output(self, output: Any) -> None:
        """Note when the first token came, which for a caller who wants only the end was long before ``output``."""
        record, now, came = self.record, time.monotonic(), None
        if (stats := output.metrics) is not None and 0 < stats.scheduled_ts <= stats.first_token_ts:
            # Readings of the engine process's clock, of which only differences mean something here.
            queued_s, prefill_s = stats.scheduled_ts - stats.queued_ts, stats.first_token_ts - stats.scheduled_ts
            came = min(now, self.entered + queued_s + prefill_s)
            if record.first_token is None:
                record.queued_s, record.prefill_s = queued_s, prefill_s
        elif not output.finished:
            came = now
        if record.first_token is None:
            record.first_token = came
        if self.ticket is not None:
            self.ticket.started(now - came if came is not None else 0.0)

    def count(self) -> None:
        """Charge the tokens that were produced since the last time."""
        produced = 0
        for state in self.states:
            produced += state.detokenizer.num_output_tokens()
        self.record.completion_tokens += produced - self.counted
        self.counted = produced

    def end(self) -> None:
        """The engine works on it no longer, or nobody waits for it. May be called again."""
        self.count()
        if self.ticket is not None:
            self.ticket.finished()

    def abandon(self) -> None:
        """The request ended. A task that still takes outputs for it is cancelled, so that the engine stops too.

        vLLM starts a task of its own for an answer that is no stream, and forgets it when the request's task is
        cancelled (``with_cancellation`` in ``entrypoints/serve/utils/api_utils.py``), which is what Ray Serve does when
        a client goes away.
        """
        self.end()
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()


_entering: ContextVar[EngineCall] = ContextVar("entering")
"""The call of which this task gives sequences to the engine."""


def meter(
    engine_client: Any,
    admission: Admission | None,
    limits: LimitSettings | None = None,
    refusal: Callable[[ApiError], Exception] = vllm_error,
) -> None:
    """Measure every call of ``generate`` of this vLLM ``AsyncLLM`` that serves a request; others pass untouched.

    Besides, such a call gets the priority of the request's key, whatever the client asked for, and is held to
    ``limits`` and ``admission``. What is refused sets ``record.refused`` and raises ``refusal`` of it. A call that
    follows others on which the engine already works is accepted by ``admission`` as it is.
    """
    generate, processor = engine_client.generate, engine_client.output_processor
    add_request = processor.add_request

    def add_request_of_call(request: Any, *args: Any, **kwargs: Any) -> None:
        add_request(request, *args, **kwargs)
        if (call := _entering.get(None)) is not None:
            call.enter(processor.request_states[request.request_id])

    def metered_generate(prompt: Any, sampling_params: Any, request_id: str, **options: Any) -> Any:
        if (record := current()) is None:
            return generate(prompt, sampling_params, request_id, **options)
        record.engine_asked = True
        length = _length(prompt)
        if limits is not None:
            _limit(limits, record, length, sampling_params, refusal)
        ticket = None if admission is None else _ticket(admission, record, length, sampling_params, refusal)
        # A beam search sends its prompt again with every token.
        call = EngineCall(record, ticket, length if record.engine_entered is None else 0)
        # vLLM drops some generators without ever starting them, and those clean up nothing.
        at_end(call.abandon)
        options["priority"] = record.priority
        # One beyond the vocabulary selects nothing, but one beyond 64 bits cannot be sent to the engine's process.
        sampling_params.top_k = min(sampling_params.top_k, LARGEST_TOP_K)
        return _metered(call, generate(prompt, sampling_params, request_id, **options))

    processor.add_request = add_request_of_call
    engine_client.generate = metered_generate


async def _metered(call: EngineCall, outputs: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    _entering.set(call)
    call.task = asyncio.current_task()
    begun = False
    try:
        async for output in outputs:
            if not begun:
                begun = True
                call.first_output(output)
            call.count()
            yield output
            call.task = asyncio.current_task()
    finally:
        call.task = None
        call.end()
        await outputs.aclose()


def _limit(
    limits: LimitSettings,
    record: RequestRecord,
    prompt_tokens: int,
    params: Any,
    refusal: Callable[[ApiError], Exception],
) -> None:
    """Refuse a prompt that is too long, and end a completion whose length the client left open in time."""
    try:
        # What follows the first calls, a step of a beam search for example, has what was generated in its prompt.
        if record.engine_entered is None:
            check_prompt(prompt_tokens, limits)
    except Refused as refused:
        record.refused = refused.error
        count_refusal(record)
        raise refusal(refused.error) from None
    if limits.max_tokens is not None:
        params.max_tokens = min(params.max_tokens or limits.max_tokens, limits.max_tokens)


def _ticket(
    admission: Admission,
    record: RequestRecord,
    prompt_tokens: int,
    params: Any,
    refusal: Callable[[ApiError], Exception],
) -> Ticket:
    demand = (prompt_tokens, params.max_tokens or 0, params.n, record.priority)
    if record.engine_entered is not None:
        return admission.accept(*demand)
    try:
        ticket = admission.admit(*demand, follows=record.admitted)
    except Refused as refused:
        record.refused = refused.error
        REJECTIONS.labels(key=record.key_name, reason="admission").inc()
        raise refusal(refused.error) from None
    record.admitted = True
    return ticket


def _length(prompt: Any) -> int:
    """Tokens of a rendered prompt (``inputs/engine.py``): their ids or, with prompt embeddings, their vectors."""
    ids = prompt.get("prompt_token_ids")
    return len(ids if ids is not None else prompt["prompt_embeds"])
