"""Prevents schedules that are not dealt out whole, conversations that mix, and requests lost at the end of a run."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gevent
import pytest
from gevent.event import Event

from loadtest._answer import RequestError
from loadtest._arrivals import Arrivals
from loadtest._calibration import Calibration
from loadtest._collector import Collector
from loadtest._generator import BACK_OFF_S, Generator, Place
from loadtest._request import ErrorKind, Record, RequestSpec
from loadtest._run_plan import RunPlan
from loadtest._workload import Workload
from tests.unit.loadtest_runs import failure, record

TALK = Workload(name="talk", turns=3, prompt_tokens=20, output_tokens=4)
PLAIN = Workload(name="plain", prompt_tokens=20, output_tokens=4)
CONSTANT = Arrivals("constant", 200.0)

PLAN = RunPlan(
    host="http://127.0.0.1:9",
    model="m",
    seed=1,
    nonce="n",
    scenarios={"Plain": [(PLAIN, 1.0)]},
    workload="plain",
    arrivals=CONSTANT,
    trace=None,
    duration_s=0.1,
    warmup_s=0.0,
    cooldown_s=0.0,
    think_time_s=None,
    request_timeout_s=1.0,
    drain_s=1.0,
    most_in_flight=100,
    users=1,
    calibration=Calibration(),
)


def generator(plan: RunPlan, send: Callable[[RequestSpec, dict[str, Any]], Record]) -> tuple[Generator, list[Record]]:
    """One whose requests end as ``send`` says, and the records that it observes."""
    observed: list[Record] = []
    made = Generator(plan, None, observed.append)
    made._client = StubClient(send)  # type: ignore[assignment]
    return made, observed


class StubClient:
    def __init__(self, send: Callable[[RequestSpec, dict[str, Any]], Record]) -> None:
        self._send = send

    def send(self, spec: RequestSpec, **how: Any) -> Record:
        how.pop("keep_text"), how.pop("continuous_usage")
        return self._send(spec, how)

    def close(self) -> None:
        """Nothing is open."""


def answered(spec: RequestSpec, how: dict[str, Any]) -> Record:
    return record(scenario=spec.scenario, text="answer", **how)


def start() -> float:
    return time.perf_counter()


def test_processes_share_the_schedule_and_each_request_keeps_its_intended_time() -> None:
    runs = [generator(PLAN, answered) for _ in range(3)]
    begin = start()
    gevent.joinall([gevent.spawn(one.run, Place(number, 3, begin)) for number, (one, _) in enumerate(runs)])
    for made, _ in runs:
        made.drain(1.0, ErrorKind.TIMEOUT, "late")
    records = sorted((one for _, observed in runs for one in observed), key=lambda one: one.index)
    assert [one.index for one in records] == list(range(20))
    assert [one.worker for one in records] == [index % 3 for index in range(20)]
    assert [one.intended for one in records] == pytest.approx([begin + index / 200 for index in range(20)])
    assert sum(made.dispatched for made, _ in runs) == 20


def test_an_open_loop_continues_conversations_before_it_begins_new_ones() -> None:
    made, _ = generator(replace(PLAN, scenarios={"Talk": [(TALK, 1.0)]}), answered)
    lengths = []
    for index in range(7):
        planned = made._next(index, time.perf_counter())
        lengths.append(len(planned.spec.messages or []))
        made._send(planned, index, 0.0)
    assert lengths == [1, 3, 5, 1, 3, 5, 1]


def test_past_the_bound_arrivals_are_dropped_and_counted() -> None:
    hold = Event()

    def send(spec: RequestSpec, how: dict[str, Any]) -> Record:
        hold.wait()
        return answered(spec, how)

    made, observed = generator(replace(PLAN, most_in_flight=4), send)
    made.run(Place(0, 1, start()))
    assert (made.in_flight, made.dispatched, made.dropped, observed) == (4, 4, 16, [])
    hold.set()
    made.drain(1.0, ErrorKind.TIMEOUT, "late")
    assert len(observed) == 4


def test_what_is_in_flight_at_the_end_is_given_up_with_a_record() -> None:
    def send(spec: RequestSpec, how: dict[str, Any]) -> Record:
        try:
            gevent.sleep(60)
        except RequestError as error:
            return failure(error.kind, scenario=spec.scenario, detail=error.detail, **how)
        raise AssertionError

    made, observed = generator(replace(PLAN, duration_s=0.01), send)
    made.run(Place(0, 1, start()))
    made.drain(0.01, ErrorKind.CANCELLED, "interrupted")
    assert [(one.error, one.detail) for one in observed] == [(ErrorKind.CANCELLED, "interrupted")] * 2
    assert made.in_flight == 0


def test_a_stopped_dispatcher_sends_nothing_more() -> None:
    made, observed = generator(replace(PLAN, arrivals=Arrivals("constant", 0.001), duration_s=None), answered)
    job = gevent.spawn(made.run, Place(0, 1, start()))
    while not observed:
        gevent.sleep(0.001)
    made.stop()
    job.join(5)
    assert job.ready()
    made.drain(1.0, ErrorKind.TIMEOUT, "late")
    assert [one.index for one in observed] == [0]


def closed(workload: Workload, send: Callable[[RequestSpec, dict[str, Any]], Record], **changes: Any) -> Generator:
    plan = replace(PLAN, arrivals=Arrivals("closed"), duration_s=None, scenarios={"S": [(workload, 1.0)]}, **changes)
    made, _ = generator(plan, send)
    gevent.spawn(made.run, Place(1, 2, start()))
    return made


def test_a_user_holds_one_conversation_to_its_end_and_then_begins_another() -> None:
    sent: list[tuple[int, int]] = []

    def send(spec: RequestSpec, how: dict[str, Any]) -> Record:
        sent.append((how["index"], len(spec.messages or [])))
        return answered(spec, how)

    made = closed(TALK, send)
    conversation = None
    for _ in range(4):
        conversation, think = made.serve("S", conversation)
        assert think == 0.0
    made.stop()
    # The second of two processes: odd numbers.
    assert sent == [(1, 1), (3, 3), (5, 5), (7, 1)]


def test_a_user_thinks_as_long_as_asked_and_waits_after_a_failure() -> None:
    made = closed(TALK, answered, think_time_s=7.0)
    assert made.serve("S", None)[1] == 7.0
    made.stop()
    failing = closed(TALK, lambda spec, how: failure(ErrorKind.CONNECT, **how))
    assert failing.serve("S", None) == (None, BACK_OFF_S)
    failing.stop()


def test_a_plan_survives_the_way_to_another_process() -> None:
    plan = replace(PLAN, scenarios={"Talk": [(TALK, 2.0), (PLAIN, 1.0)]})
    assert RunPlan.from_json(plan.to_json()) == plan


def test_a_report_holds_no_text_of_the_workload_and_all_of_its_numbers() -> None:
    private = Workload(name="private", prompts=["first secret", "second secret"], system="third secret", turns=2)
    plan = replace(PLAN, scenarios={"Private": [(private, 1.0)]}, arrivals=Arrivals("poisson", 2.0), duration_s=10.0)
    collector = Collector(plan, lambda _: None)
    collector.take({"worker": 0, "records": [record().to_row()], "health": [], "dropped": 3, "done": True})
    run = collector.run_data(12.0, 2, [])
    assert "secret" not in str(run.workload)
    (shown,) = run.workload["parameters"]["scenarios"]["Private"]
    assert (shown["prompts"], shown["system"], shown["turns"]) == ("2 texts", "12 characters", 2)
    assert run.arrivals == {"kind": "poisson", "rate": 2.0, "seed": 1, "dropped": 3}
    assert (run.duration_s, run.requested_rate, run.users, run.processes, len(run.records)) == (10.0, 2.0, None, 2, 1)


def test_an_interrupted_ramp_was_asked_for_as_far_as_it_came() -> None:
    plan = replace(PLAN, arrivals=Arrivals("ramp", 1.0, peak=9.0), duration_s=10.0)
    run = Collector(plan, lambda _: None).run_data(4.9, 1, [])
    # 1 t + 0.4 t² is 14.5 after 4.9 s, and the first request comes at once.
    assert run.duration_s == 4.9
    assert run.requested_rate == pytest.approx(15 / 4.9)
