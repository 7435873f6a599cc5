"""Prevents: tokens that nobody counts, a request that admission never lets go, and a priority that clients choose."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from prometheus_client import REGISTRY

from deploy.gateway import at_end
from deploy.gateway.admission import Admission, Ticket
from deploy.gateway.demand import Capacity, Demand
from deploy.gateway.errors import ApiError
from deploy.gateway.request import RequestRecord, current
from deploy.gateway.request_scope import RequestScope
from deploy.metered_engine import meter
from deploy.settings import AdmissionSettings, LimitSettings
from tests.unit.asgi_calls import call, scope_of
from tests.unit.key_gate import CHAT, Clock
from tests.unit.records import key

DELTA, CUMULATIVE, FINAL_ONLY = "delta", "cumulative", "final only"
PROMPT = {"type": "token", "prompt_token_ids": [1, 2, 3, 4, 5]}
ROOM = 8
"""Sequences that the ledger lets in: half of them to run, half to wait."""


class EngineRefuses(Exception):
    """What vLLM's serving code would answer with a status."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)


class State:
    """vLLM's state of one sequence, as far as it is looked at."""

    def __init__(self) -> None:
        self.is_prefilling = True
        self.tokens: list[int] = []
        self.detokenizer = SimpleNamespace(num_output_tokens=lambda: len(self.tokens))


class Processor:
    """vLLM's output processor: it has the states of all sequences."""

    def __init__(self) -> None:
        self.request_states: dict[str, State] = {}

    def add_request(self, request: Any, *_: Any) -> None:
        self.request_states[request.request_id] = State()


class Engine:
    """An engine client that makes one token of each sequence in a step, and delivers as vLLM's three kinds do."""

    def __init__(self, stats: bool = True, fails_after: int | None = None) -> None:
        self.output_processor, self.stats, self.fails_after = Processor(), stats, fails_after
        self.made = 0
        self.aborted: list[str] = []
        self.options: list[dict[str, Any]] = []
        self.steps = asyncio.Semaphore(10**6)

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[Any, None]:
        self.options.append(options)
        names = [f"{index}_{request_id}" for index in range(sampling_params.n)]
        try:
            for index, name in enumerate(names):
                self.output_processor.add_request(SimpleNamespace(request_id=name), None, None, index, None)
            states = [self.output_processor.request_states[name] for name in names]
            queued = time.monotonic()
            stats = SimpleNamespace(queued_ts=queued, scheduled_ts=queued, first_token_ts=0.0)
            for step in range(sampling_params.max_tokens):
                await self.steps.acquire()
                if step == self.fails_after:
                    raise RuntimeError
                for state in states:
                    state.is_prefilling = False
                    state.tokens.append(step)
                    self.made += 1
                stats.first_token_ts = stats.first_token_ts or time.monotonic()
                last = step == sampling_params.max_tokens - 1
                for output in self._outputs(states, sampling_params.output_kind, last):
                    yield SimpleNamespace(outputs=output, finished=last, metrics=stats if self.stats else None)
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request_id)
            for name in names:
                del self.output_processor.request_states[name]
            raise

    def _outputs(self, states: list[State], kind: str, last: bool) -> list[list[SimpleNamespace]]:
        """As vLLM: the sequences come one by one while they run, and together where only the end is wanted."""
        if kind == FINAL_ONLY:
            return [[SimpleNamespace(token_ids=state.tokens) for state in states]] if last else []
        return [[SimpleNamespace(token_ids=state.tokens[-1:] if kind == DELTA else state.tokens)] for state in states]


Ledger = TypeVar("Ledger", bound=Admission)


def ledger_of(kind: type[Ledger]) -> Ledger:
    capacity = Capacity(10**9, lambda tokens: tokens, 100, ROOM // 2, ROOM // 2)
    return kind(capacity, AdmissionSettings(), Clock())


def ledger() -> Admission:
    return ledger_of(Admission)


def admitted() -> float | None:
    return REGISTRY.get_sample_value("mistral_serve_admitted_kv_bytes")


def params(max_tokens: int = 3, n: int = 1, kind: str = DELTA) -> SimpleNamespace:
    return SimpleNamespace(max_tokens=max_tokens, n=n, output_kind=kind, top_k=0)


def metered(engine: Engine, admission: Admission | None = None, limits: LimitSettings | None = None) -> Any:
    meter(engine, admission, limits, EngineRefuses)
    return engine


def request(work: Callable[[RequestRecord], Awaitable[None]], **fields: Any) -> RequestRecord:
    """A request that ended, and for which the app did ``work``."""
    served: list[RequestRecord] = []

    async def app(*_: Any) -> None:
        record = current()
        assert record is not None
        for name, value in fields.items():
            setattr(record, name, value)
        served.append(record)
        await work(record)

    call(RequestScope(app, (at_end.observe,)), scope_of(CHAT))
    return served[0]


async def drain(outputs: AsyncGenerator[Any, None]) -> int:
    return len([output async for output in outputs])


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("kind", [DELTA, CUMULATIVE, FINAL_ONLY])
def test_tokens_are_counted_for_every_way_of_taking_outputs(kind: str, n: int) -> None:
    engine, admission = Engine(), ledger()

    async def work(_: RequestRecord) -> None:
        outputs = await drain(metered(engine, admission).generate(PROMPT, params(4, n, kind), "r"))
        assert outputs == (1 if kind == FINAL_ONLY else 4 * n)

    record = request(work)
    assert (record.prompt_tokens, record.completion_tokens) == (5, 4 * n)
    assert (engine.aborted, admitted()) == ([], 0)


@pytest.mark.parametrize("kind", [DELTA, CUMULATIVE])
def test_tokens_are_counted_while_the_stream_runs(kind: str) -> None:
    async def work(record: RequestRecord) -> None:
        seen = []
        async for _ in metered(Engine()).generate(PROMPT, params(3, kind=kind), "r"):
            seen.append((record.prompt_tokens, record.completion_tokens))
        assert seen == [(5, 1), (5, 2), (5, 3)]

    request(work)


def test_several_prompts_of_one_request_are_added_up() -> None:
    async def work(_: RequestRecord) -> None:
        engine = metered(Engine(), ledger())
        calls = [engine.generate(PROMPT, params(2), f"r-{index}") for index in range(3)]
        await asyncio.gather(*(drain(outputs) for outputs in calls))

    record = request(work)
    assert (record.prompt_tokens, record.completion_tokens, admitted()) == (15, 6, 0)


@pytest.mark.parametrize("kind", [DELTA, FINAL_ONLY])
def test_a_client_that_hangs_up_pays_for_what_was_made_and_frees_its_place(kind: str) -> None:
    engine = Engine()

    async def work(_: RequestRecord) -> None:
        engine.steps = asyncio.Semaphore(2)
        client = metered(engine, ledger())
        task = asyncio.create_task(drain(client.generate(PROMPT, params(10, kind=kind), "r")))
        while engine.made < 2:
            await asyncio.sleep(0)
        # As vLLM does it, which does not wait for what it cancels.
        task.cancel()

    record = request(work)
    assert (record.prompt_tokens, record.completion_tokens) == (5, 2)
    assert (engine.aborted, admitted()) == (["r"], 0)


@pytest.mark.parametrize("kind", [DELTA, FINAL_ONLY])
def test_a_request_that_is_cancelled_takes_the_task_that_vllm_forgets_with_it(kind: str) -> None:
    engine = Engine()
    forgotten: list[asyncio.Task[int]] = []

    async def run() -> None:
        engine.steps = asyncio.Semaphore(2)
        client = metered(engine, ledger())

        async def app(*_: Any) -> None:
            forgotten.append(asyncio.create_task(drain(client.generate(PROMPT, params(10, kind=kind), "r"))))
            await asyncio.wait(forgotten)

        request = asyncio.create_task(RequestScope(app, (at_end.observe,))(scope_of(CHAT), None, None))  # type: ignore[arg-type]
        while engine.made < 2:
            await asyncio.sleep(0)
        request.cancel()
        await asyncio.wait([request, *forgotten])

    asyncio.run(run())
    assert (forgotten[0].cancelled(), engine.aborted, admitted()) == (True, ["r"], 0)


def test_a_stream_that_is_closed_closes_the_engine_s_own() -> None:
    engine = Engine()

    async def work(record: RequestRecord) -> None:
        outputs = metered(engine, ledger()).generate(PROMPT, params(10), "r")
        await anext(outputs)
        await outputs.aclose()
        assert (record.completion_tokens, engine.aborted, admitted()) == (1, ["r"], 0)

    request(work)


def test_a_stream_that_never_began_is_let_go_and_not_charged() -> None:
    async def work(_: RequestRecord) -> None:
        metered(Engine(), ledger()).generate(PROMPT, params(), "r")
        assert admitted() == 8

    record = request(work)
    assert (record.prompt_tokens, record.completion_tokens, record.engine_entered, admitted()) == (0, 0, None, 0)


def test_a_failure_of_the_engine_passes_and_frees_the_place() -> None:
    async def work(_: RequestRecord) -> None:
        with pytest.raises(RuntimeError):
            await drain(metered(Engine(fails_after=1), ledger()).generate(PROMPT, params(), "r"))

    record = request(work)
    assert (record.completion_tokens, admitted()) == (1, 0)


@pytest.mark.parametrize(("priority", "number"), [("high", -1), ("normal", 0), ("low", 1)])
def test_the_priority_is_the_key_s_whatever_the_client_asked_for(priority: str, number: int) -> None:
    engine = Engine()

    async def work(_: RequestRecord) -> None:
        await drain(metered(engine).generate(PROMPT, params(), "r", priority=-100, session_id="s"))

    request(work, key=key(priority=priority))
    assert engine.options == [{"priority": number, "session_id": "s"}]


def test_a_call_without_a_request_passes_untouched() -> None:
    engine = Engine()
    client = metered(engine, ledger())
    assert asyncio.run(drain(client.generate(PROMPT, params(), request_id="warm-up", priority=7))) == 3
    assert (engine.options, admitted()) == ([{"priority": 7}], 0)


def test_a_refusal_comes_before_the_engine_and_before_a_stream() -> None:
    engine, admission = Engine(), ledger()
    for _ in range(ROOM):
        admission.accept(5, 3, 1, 0)
    labels = {"key": "team", "reason": "admission"}
    before = REGISTRY.get_sample_value("mistral_serve_rejections_total", labels) or 0

    async def work(_: RequestRecord) -> None:
        with pytest.raises(EngineRefuses):
            metered(engine, admission).generate(PROMPT, params(), "r")

    record = request(work, key=key())
    assert record.refused is not None
    assert (record.refused.status, record.refused.code, record.refused.retry_after) == (429, "server_overloaded", 1)
    assert (record.prompt_tokens, record.engine_entered, engine.options) == (0, None, [])
    assert (REGISTRY.get_sample_value("mistral_serve_rejections_total", labels) or 0) - before == 1


def test_a_prompt_that_is_too_long_is_refused_before_the_engine() -> None:
    engine = Engine()

    async def work(_: RequestRecord) -> None:
        client = metered(engine, ledger(), LimitSettings(prompt_tokens=4))
        with pytest.raises(EngineRefuses):
            client.generate(PROMPT, params(), "r")

    record = request(work)
    assert record.refused is not None
    assert (record.refused.status, record.refused.code) == (400, "context_length_exceeded")
    assert (engine.options, admitted()) == ([], 0)


def test_a_prompt_that_grew_in_a_beam_search_is_no_longer_prompt() -> None:
    async def work(record: RequestRecord) -> None:
        client = metered(Engine(), ledger(), LimitSettings(prompt_tokens=5))
        await drain(client.generate(PROMPT, params(1), "beam"))
        await drain(client.generate({"prompt_token_ids": [1, 2, 3, 4, 5, 6]}, params(1), "beam"))
        assert (record.prompt_tokens, record.completion_tokens) == (5, 2)

    assert request(work).refused is None


def test_a_top_k_that_the_engine_could_not_be_sent_is_the_largest_one() -> None:
    async def work(_: RequestRecord) -> None:
        huge = params()
        huge.top_k = 10**30
        await drain(metered(Engine()).generate(PROMPT, huge, "r"))
        assert huge.top_k == 2**31 - 1

    request(work)


@pytest.mark.parametrize(("asked", "made"), [(None, 3), (2, 2), (10, 3)])
def test_a_completion_of_open_length_ends_at_the_limit(asked: int | None, made: int) -> None:
    async def work(_: RequestRecord) -> None:
        open_ended = params()
        open_ended.max_tokens = asked
        await drain(metered(Engine(), ledger(), LimitSettings(max_tokens=3)).generate(PROMPT, open_ended, "r"))

    assert request(work).completion_tokens == made


def test_admission_is_asked_with_the_exact_demand() -> None:
    async def work(_: RequestRecord) -> None:
        client = metered(Engine(), ledger())
        client.generate(PROMPT, params(100, n=2), "r")
        client.generate({"type": "embeds", "prompt_embeds": [[0.0]] * 7}, params(1), "r")
        assert admitted() == 2 * 105 + 8

    request(work)


def test_a_further_prompt_waits_for_the_first_ones_of_its_request_but_needs_a_place() -> None:
    class Slow(Admission):
        """Whoever comes when somebody waits, waits for ever."""

        def _room_s(self, priority: int, demand: Demand | None) -> float:
            return 0.0 if not self._waiting.sequences else 1e6

    async def work(record: RequestRecord) -> None:
        client = metered(Engine(), ledger_of(Slow))
        calls = [client.generate(PROMPT, params(1), f"r-{index}") for index in range(ROOM)]
        assert record.refused is None
        with pytest.raises(EngineRefuses):
            client.generate(PROMPT, params(1), "one more")
        assert len(calls) == ROOM

    assert request(work).refused is not None


def test_a_request_that_the_engine_works_on_is_not_refused_half_way() -> None:
    async def work(record: RequestRecord) -> None:
        admission = ledger()
        client = metered(Engine(), admission)
        await drain(client.generate(PROMPT, params(1), "beam"))
        for _ in range(ROOM):
            admission.accept(5, 3, 1, 0)
        await drain(client.generate(PROMPT, params(1), "beam"))
        # The same prompt, once more in every step of a beam search.
        assert (record.prompt_tokens, record.completion_tokens) == (5, 2)

    assert request(work).refused is None


@pytest.mark.parametrize("kind", [DELTA, FINAL_ONLY])
def test_the_engine_s_times_are_noted(kind: str) -> None:
    began = time.monotonic()

    async def work(_: RequestRecord) -> None:
        engine = metered(Engine(), ledger())
        await drain(engine.generate(PROMPT, params(kind=kind), "r"))

    record = request(work)
    assert record.engine_entered is not None
    assert record.first_token is not None
    assert record.ended is not None
    assert record.queued_s == 0
    assert record.prefill_s is not None
    assert began <= record.engine_entered <= record.first_token <= record.ended
    assert record.first_token - record.engine_entered == pytest.approx(record.prefill_s)


def test_without_the_engine_s_times_a_stream_still_tells_its_first_token() -> None:
    async def work(_: RequestRecord) -> None:
        await drain(metered(Engine(stats=False), ledger()).generate(PROMPT, params(), "r"))

    record = request(work)
    assert (record.first_token is None, record.queued_s, record.prefill_s) == (False, None, None)


def test_admission_learns_of_a_first_token_that_no_output_shows() -> None:
    class Watched(Admission):
        tickets: list[Ticket]

        def admit(self, prompt_tokens: int, max_tokens: int, n: int, priority: int, *, follows: bool = False) -> Ticket:
            self.tickets.append(super().admit(prompt_tokens, max_tokens, n, priority, follows=follows))
            return self.tickets[-1]

        def waiting(self) -> list[bool]:
            self.check(0)
            return [ticket.waits for ticket in self.tickets]

    async def work(_: RequestRecord) -> None:
        engine, admission = Engine(), ledger_of(Watched)
        admission.tickets = []
        client = metered(engine, admission)
        engine.steps = asyncio.Semaphore(0)
        outputs = [client.generate(PROMPT, params(2, kind=FINAL_ONLY), f"r-{index}") for index in range(2)]
        assert admission.waiting() == [True, True]
        tasks = [asyncio.create_task(drain(output)) for output in outputs]
        await asyncio.sleep(0)
        assert admission.waiting() == [True, True]
        engine.steps.release()
        while engine.made < 1:
            await asyncio.sleep(0)
        assert admission.waiting() == [False, True]
        for _step in range(3):
            engine.steps.release()
        await asyncio.gather(*tasks)

    request(work)
    assert admitted() == 0


def test_a_call_that_nothing_would_ever_end_is_an_error() -> None:
    async def app(*_: Any) -> None:
        metered(Engine(), ledger()).generate(PROMPT, params(), "r")

    with pytest.raises(LookupError):
        call(RequestScope(app), scope_of(CHAT))
