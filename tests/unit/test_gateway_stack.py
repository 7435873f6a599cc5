"""Prevents: a request that is refused and still costs a quota, a parsed body, or a look at a key."""

from pathlib import Path
from typing import Any

import pytest

from deploy.gateway.admission import Admission
from deploy.gateway.asgi import Receive, Scope, Send
from deploy.gateway.demand import Capacity
from deploy.gateway.key_file import new_token
from deploy.gateway.quota_book import Verdict, Window
from deploy.gateway.request import RequestRecord
from deploy.gateway.request_scope import RequestScope
from deploy.gateway.stack import Gateway
from deploy.settings import AdmissionSettings, Settings
from tests.unit.asgi_calls import Response, Upstream, call, scope_of
from tests.unit.key_gate import CHAT, Clock, entry, write


class Book:
    """Counts what it is asked; ``left``: requests that it admits."""

    timeout_s = 1.0

    def __init__(self, left: int = 10) -> None:
        self.left, self.taken = left, 0
        self.charged: list[int] = []

    async def take(self, key_name: str, requests_per_minute: int | None, tokens_per_minute: int | None) -> Verdict:
        self.taken += 1
        return Verdict({"requests": Window(10, self.left, 30.0, 31, exhausted=self.taken > self.left)})

    async def charge(self, key_name: str, tokens_per_minute: int, tokens: int) -> None:
        self.charged.append(tokens)


class Stack:
    """The whole gateway with one key, a book, and room for one sequence, none of which may wait."""

    def __init__(self, directory: Path, book: Book, **groups: Any) -> None:
        self.token, self.upstream = new_token(), Upstream()
        write(directory / "keys.yaml", entry(self.token, requests_per_minute=10))
        known = {"gateway": {"keys_file": directory / "keys.yaml"}, "log": {"access": False}}
        settings = Settings.model_validate(known | groups)
        self.admission = Admission(Capacity(10**9, lambda tokens: tokens, 100, 1, 0), AdmissionSettings(), Clock())
        self.engine_is_dead = False
        self.app = Gateway(settings, book).around(self.upstream, "demo", self.admission, lambda: self.engine_is_dead)

    def ask(self, body: bytes = b"{}", **headers: str) -> Response:
        return call(self.app, scope_of(CHAT, {"authorization": f"Bearer {self.token}", **headers}), [body])


def outcome(response: Response) -> tuple[int, str]:
    return response.status, response.error["code"]


def test_a_request_passes_every_part(tmp_path: Path) -> None:
    book = Book()
    stack = Stack(tmp_path, book)
    response = stack.ask()
    assert (response.status, book.taken, len(stack.upstream.scopes)) == (200, 1, 1)
    assert response.headers["x-ratelimit-remaining-requests"] == "10"


def test_who_sends_too_large_headers_is_not_asked_for_a_key(tmp_path: Path) -> None:
    stack = Stack(tmp_path, Book())
    assert outcome(stack.ask(authorization="Bearer none", filler="x" * 9000)) == (431, "headers_too_large")
    assert outcome(stack.ask(authorization="Bearer none")) == (401, "invalid_api_key")


def test_what_a_full_replica_refuses_is_not_counted_against_the_quota(tmp_path: Path) -> None:
    book = Book()
    stack = Stack(tmp_path, book)
    stack.admission.accept(10, 10, 1, 0)
    assert outcome(stack.ask()) == (429, "server_overloaded")
    assert (book.taken, stack.upstream.scopes) == (0, [])


@pytest.mark.parametrize("limited", [True, False])
def test_more_completions_than_the_server_ever_holds_are_the_request_s_mistake(tmp_path: Path, limited: bool) -> None:
    vllm = {"max_num_seqs": 2, "max_num_queued_reqs": 1}
    stack = Stack(tmp_path, Book(), vllm=vllm, limits={"enabled": limited})
    assert outcome(stack.ask(b'{"n": 4}')) == (400, "integer_above_max_value")
    assert stack.ask(b'{"n": 3}').status == 200


def test_a_used_up_quota_is_told_before_the_body_is_looked_at(tmp_path: Path) -> None:
    stack = Stack(tmp_path, Book(left=0))
    response = stack.ask(b"no JSON")
    assert (*outcome(response), response.headers["retry-after"]) == (429, "rate_limit_exceeded", "31")


def test_our_own_server_errors_keep_their_code_and_their_wait(tmp_path: Path) -> None:
    class Unreachable(Book):
        async def take(self, *_: Any) -> Verdict:
            raise OSError

    response = Stack(tmp_path, Unreachable(), quotas={"on_failure": "refuse"}).ask()
    assert (*outcome(response), response.headers["retry-after"]) == (503, "quota_unavailable", "5")


@pytest.mark.parametrize(("dead", "expected"), [(False, (400, None)), (True, (503, "unavailable"))])
def test_a_failure_before_the_engine_is_asked_is_the_request_s_own_while_the_engine_lives(
    tmp_path: Path, dead: bool, expected: tuple[int, str | None]
) -> None:
    stack = Stack(tmp_path, Book())
    stack.upstream.status, stack.engine_is_dead = 500, dead
    assert outcome(stack.ask()) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[]", (400, None)),
        (b'{"n": 9}', (400, "integer_above_max_value")),
        (b"x" * 5_000_000, (413, "request_too_large")),
    ],
)
def test_what_asks_for_too_much_does_not_reach_the_app(
    tmp_path: Path, body: bytes, expected: tuple[int, str | None]
) -> None:
    stack = Stack(tmp_path, Book())
    assert outcome(stack.ask(body)) == expected
    assert stack.upstream.scopes == []


def test_what_is_sent_to_a_client_that_went_away_was_no_answer() -> None:
    seen: list[RequestRecord] = []

    async def as_vllm_s(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await Upstream(chunks=[b"null"])(scope, receive, send)

    response = call(RequestScope(as_vllm_s, (seen.append,)), scope_of(CHAT))
    record = seen[-1]
    assert (record.hung_up, record.complete, record.status) == (True, False, 0)
    assert response.messages == []
