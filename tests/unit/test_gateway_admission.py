"""Prevents: a request that is taken although it cannot begin in time, and one that is refused although it can."""

from typing import Any

import pytest
from prometheus_client import REGISTRY

from deploy.gateway.admission import Admission, Ticket
from deploy.gateway.admission_early import AdmissionEarly
from deploy.gateway.admission_fit import check_fit
from deploy.gateway.demand import Capacity
from deploy.gateway.errors import ApiError, Refused
from deploy.gateway.request_scope import RequestScope
from deploy.settings import AdmissionSettings
from tests.unit.asgi_calls import Response, Upstream, call, scope_of
from tests.unit.key_gate import CHAT, Clock

SLOTS, QUEUE, BOUND_S = 4, 8, 10.0
HIGH, NORMAL, LOW = -1, 0, 1
KIB = 1024
COMPLETIONS = "/v1/completions"


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Replica:
    """A ledger with requests in it, whose estimates have always been right; a token of KV cache is one byte."""

    def __init__(self, clock: Clock, *, kv_bytes: int = 10**9, window: int = 10**6, chunk: int = 100) -> None:
        self.clock = clock
        capacity = Capacity(kv_bytes, lambda length: min(length, window), chunk, SLOTS, QUEUE)
        self.admission = Admission(capacity, AdmissionSettings(max_queue_wait_s=BOUND_S), clock)
        for _ in range(2000):
            self.admission.correction.learn(1.0, 1.0)

    def ask(self, prompt: int = 10, max_tokens: int = 10, n: int = 1, priority: int = NORMAL) -> Ticket:
        return self.admission.admit(prompt, max_tokens, n, priority)

    def run(self, prompt: int = 10, max_tokens: int = 10, n: int = 1) -> Ticket:
        ticket = self.ask(prompt, max_tokens, n)
        ticket.started()
        return ticket

    def serve(self, seconds: float, rounds: int = 50, **demand: int) -> None:
        """Keep every slot busy with requests that take ``seconds``."""
        for _ in range(rounds):
            tickets = [self.run(**demand) for _ in range(SLOTS)]
            self.clock.now += seconds
            for ticket in tickets:
                ticket.finished()

    def refusal(self, prompt: int = 10, max_tokens: int = 10, n: int = 1, priority: int = NORMAL) -> ApiError:
        with pytest.raises(Refused) as refused:
            self.ask(prompt, max_tokens, n, priority)
        return refused.value.error


@pytest.fixture
def replica(clock: Clock) -> Replica:
    return Replica(clock)


def test_before_anything_was_measured_only_the_queue_is_a_bound(replica: Replica) -> None:
    for _ in range(SLOTS + QUEUE):
        replica.ask()
    error = replica.refusal()
    assert (error.status, error.type, error.code) == (429, "rate_limit_error", "server_overloaded")
    assert (error.retry_after, "queue of 8 requests is full" in error.message) == (1, True)


def test_the_completions_of_one_request_count_one_by_one(replica: Replica) -> None:
    replica.ask(n=SLOTS + QUEUE - 1)
    replica.refusal(n=2)
    replica.ask()


def test_a_further_prompt_of_a_request_may_wait_longer_but_needs_a_place(replica: Replica) -> None:
    replica.serve(20.0)
    for _ in range(SLOTS):
        replica.run()
    replica.refusal()
    for _ in range(QUEUE):
        replica.admission.admit(10, 10, 1, NORMAL, follows=True)
    with pytest.raises(Refused, match="queue of 8 requests is full"):
        replica.admission.admit(10, 10, 1, NORMAL, follows=True)


def test_an_idle_replica_takes_as_many_completions_as_it_holds_however_large(clock: Clock) -> None:
    replica = Replica(clock, kv_bytes=100)
    replica.serve(600.0)
    replica.ask(prompt=10**5, max_tokens=10**5, n=SLOTS + QUEUE)


@pytest.mark.parametrize(
    ("route", "body", "param", "message"),
    [
        (CHAT, {"n": 13}, "n", "13 completions, and this server holds at most 12 at once: ask for fewer."),
        (COMPLETIONS, {"prompt": "a", "n": "13"}, "n", "13 completions, and this server holds"),
        (
            COMPLETIONS,
            {"prompt": ["a"] * 7, "n": 2},
            "prompt",
            "2 completions of each of 7 prompts, and this server holds at most 12 at once: "
            "send fewer prompts in one request.",
        ),
        (COMPLETIONS, {"prompt": [[1]] * 13}, "prompt", "asks for 13 prompts, and"),
    ],
)
def test_what_an_idle_replica_could_not_hold_is_refused_for_good(
    route: str, body: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(Refused) as refused:
        check_fit(route, body, SLOTS + QUEUE)
    error = refused.value.error
    assert (error.status, error.code, error.param) == (400, "integer_above_max_value", param)
    assert (message in error.message, error.retry_after) == (True, None)


@pytest.mark.parametrize(
    ("route", "body"),
    [
        (CHAT, {"n": 12}),
        (CHAT, {"n": "many"}),
        (COMPLETIONS, {"prompt": ["a"] * 6, "n": 2}),
        (COMPLETIONS, {"prompt": list(range(100))}),
        # vLLM ignores a field that the route does not have.
        (CHAT, {"prompt": ["a"] * 13}),
    ],
)
def test_what_an_idle_replica_holds_is_not(route: str, body: dict[str, Any]) -> None:
    check_fit(route, body, SLOTS + QUEUE)


def test_what_would_wait_too_long_is_refused_and_told_how_long(replica: Replica) -> None:
    replica.serve(8.0)
    for _ in range(SLOTS):
        replica.run()
    for _ in range(2):
        replica.ask()
    replica.clock.now += 1.0
    replica.ask()
    replica.ask()
    error = replica.refusal()
    assert error.retry_after == 15
    assert error.message == (
        "The server is overloaded: this request would wait about 15 s, and 10 s are allowed. "
        "Send the request again in 15 s."
    )


def test_nobody_is_told_to_wait_longer_than_clients_heed(replica: Replica) -> None:
    replica.serve(300.0)
    for _ in range(SLOTS):
        replica.run()
    error = replica.refusal()
    assert (error.retry_after, "would wait more than 60 s" in error.message) == (60, True)


def test_an_idle_replica_takes_any_request_however_slow_it_was(replica: Replica) -> None:
    replica.serve(600.0)
    replica.clock.now += 1e6
    for _ in range(SLOTS):
        replica.ask(prompt=10**6, max_tokens=10**10)


def test_a_free_slot_is_given_at_once_after_a_stall(replica: Replica) -> None:
    tickets = [replica.run() for _ in range(SLOTS)]
    replica.clock.now += 3600.0
    replica.refusal()
    tickets[0].finished()
    replica.ask()


def test_a_ticket_counts_once_however_often_it_is_ended(replica: Replica) -> None:
    ticket = replica.run()
    for _ in range(3):
        ticket.finished()
        ticket.started()
    waiting = replica.ask()
    for _ in range(3):
        waiting.finished()
        waiting.started()
    assert REGISTRY.get_sample_value("mistral_serve_admitted_kv_bytes") == 0
    for _ in range(SLOTS + QUEUE):
        replica.ask()
    replica.refusal()


def test_the_kv_cache_is_a_bound_where_requests_are_long(clock: Clock) -> None:
    replica = Replica(clock, kv_bytes=200)
    for _ in range(50):
        tickets = [replica.run(max_tokens=90) for _ in range(2)]
        clock.now += 8.0
        for ticket in tickets:
            ticket.finished()
    for _ in range(2):
        replica.run(max_tokens=90)
    # The engine shows with the first of these whether it has room for a third.
    for _ in range(2):
        replica.ask(max_tokens=90)
    clock.now += 1.0
    assert replica.refusal(max_tokens=90).retry_after == 15
    replica.ask(max_tokens=1, priority=HIGH)


def test_a_long_prompt_costs_no_more_than_the_window(clock: Clock) -> None:
    replica = Replica(clock, kv_bytes=200, window=50)
    for _ in range(SLOTS):
        replica.run(prompt=10_000)
    assert REGISTRY.get_sample_value("mistral_serve_admitted_kv_bytes") == 200
    replica.ask(prompt=10_000, n=2)
    assert REGISTRY.get_sample_value("mistral_serve_admitted_kv_bytes") == 300


def test_requests_that_need_less_than_they_declare_fill_the_engine_nevertheless(clock: Clock) -> None:
    replica = Replica(clock, kv_bytes=100)
    for _ in range(5):
        tickets = []
        for _ in range(SLOTS):
            tickets.append(replica.run(max_tokens=90))
            clock.now += 1.0
        clock.now += 60.0
        for ticket in tickets:
            ticket.finished()


def test_prompts_that_are_read_before_make_a_request_wait(clock: Clock) -> None:
    replica = Replica(clock, chunk=100)
    for _ in range(20):
        ticket = replica.ask(prompt=1000)
        clock.now += 5.0
        ticket.started()
        ticket.finished()
    for _ in range(3):
        replica.ask(prompt=1000)
    assert replica.refusal(prompt=10).retry_after in (14, 15)


def test_prompts_that_the_next_step_reads_make_nobody_wait(clock: Clock) -> None:
    replica = Replica(clock, chunk=100)
    for _ in range(20):
        ticket = replica.ask(prompt=1000)
        clock.now += 500.0
        ticket.started()
        ticket.finished()
    replica.ask(prompt=100)
    replica.ask()


def test_requests_of_lower_priority_are_not_ahead(replica: Replica) -> None:
    replica.serve(8.0)
    for _ in range(SLOTS):
        replica.run()
    replica.clock.now += 4.0
    while True:
        try:
            replica.ask(priority=LOW)
        except Refused:
            break
    replica.refusal(priority=LOW)
    for _ in range(2):
        replica.ask(priority=NORMAL)
    replica.ask(priority=HIGH)
    assert replica.admission.wait_s(HIGH) < replica.admission.wait_s(NORMAL) < replica.admission.wait_s(LOW)


def test_a_first_token_that_no_output_tells_of_is_asked_for_in_order(clock: Clock) -> None:
    replica = Replica(clock, chunk=100)
    replica.serve(1.0)
    began = set[int]()
    asked: list[int] = []

    def has_begun(index: int) -> bool:
        asked.append(index)
        return index in began

    tickets = [replica.ask(prompt=1000) for _ in range(3)]
    for index, ticket in enumerate(tickets):
        ticket.watch(lambda index=index: has_begun(index))  # type: ignore[misc]
    replica.admission.check(NORMAL)
    assert (asked, [ticket.waits for ticket in tickets]) == ([0], [True, True, True])
    began |= {0, 1}
    replica.admission.check(NORMAL)
    assert (asked, [ticket.waits for ticket in tickets]) == ([0, 0, 1, 2], [False, False, True])
    for ticket in tickets:
        ticket.finished()
    assert REGISTRY.get_sample_value("mistral_serve_admitted_kv_bytes") == 0


def test_what_can_no_longer_be_refused_is_counted(replica: Replica) -> None:
    for _ in range(SLOTS + QUEUE + 3):
        replica.admission.accept(10, 10, 1, NORMAL)
    replica.refusal()
    assert REGISTRY.get_sample_value("mistral_serve_admitted_kv_bytes") == 20 * (SLOTS + QUEUE + 3)


def test_the_metrics_are_those_of_the_moment(replica: Replica) -> None:
    def rate(resource: str) -> float | None:
        return REGISTRY.get_sample_value("mistral_serve_drain_rate", {"resource": resource})

    assert [rate(one) for one in ("kv_bytes", "sequences", "prompt_tokens")] == [0, 0, 0]
    replica.serve(2.0)
    assert rate("sequences") == pytest.approx(SLOTS / 2.0, rel=0.1)
    tickets = [replica.run() for _ in range(SLOTS)]
    replica.clock.now += 1.0
    assert (REGISTRY.get_sample_value("mistral_serve_estimated_wait_seconds") or 0) > 0
    for ticket in tickets:
        ticket.finished()
    assert REGISTRY.get_sample_value("mistral_serve_estimated_wait_seconds") == 0


class Door:
    """The middleware in front of an app, inside a request's record."""

    def __init__(self, replica: Replica) -> None:
        self.upstream = Upstream()
        self.app = RequestScope(AdmissionEarly(self.upstream, replica.admission))

    def post(self, path: str = CHAT, method: str = "POST") -> Response:
        return call(self.app, scope_of(path, method=method), [b"{}"])


def fill(replica: Replica) -> None:
    for _ in range(SLOTS + QUEUE):
        replica.ask()


def rejections() -> float:
    labels = {"key": "", "reason": "admission"}
    return REGISTRY.get_sample_value("mistral_serve_rejections_total", labels) or 0.0


def test_the_door_refuses_before_the_app_sees_the_request(replica: Replica) -> None:
    door, before = Door(replica), rejections()
    assert door.post().status == 200
    fill(replica)
    response = door.post()
    assert (response.status, response.headers["retry-after"]) == (429, "1")
    assert response.error["code"] == "server_overloaded"
    assert (len(door.upstream.scopes), rejections() - before) == (1, 1)


def test_the_door_is_open_to_what_does_not_generate(replica: Replica) -> None:
    door = Door(replica)
    fill(replica)
    assert [door.post(path).status for path in ("/tokenize", "/v1/responses/resp_1/cancel")] == [200, 200]
    assert [door.post(path, "GET").status for path in ("/v1/models", "/health", CHAT)] == [200, 200, 200]


def test_the_door_counts_nothing(replica: Replica) -> None:
    door = Door(replica)
    for _ in range(2 * (SLOTS + QUEUE)):
        assert door.post().status == 200
