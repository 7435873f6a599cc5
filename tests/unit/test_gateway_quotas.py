"""Prevents: a request beyond its key's quota, a stream that is not charged, and a dead storage that stalls requests."""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from limits.aio.storage import MemoryStorage
from prometheus_client import REGISTRY

from deploy.gateway import at_end, quotas
from deploy.gateway.asgi import App, Receive, Scope, Send
from deploy.gateway.key_file import Key
from deploy.gateway.quota_book import Book, QuotaBook, redis_book
from deploy.gateway.quotas import RETRY_AFTER_FAILURE_S, Quotas
from deploy.gateway.request import current
from deploy.gateway.request_scope import RequestScope
from deploy.gateway.routes import GENERATING, JSON_ROUTES, RULES
from deploy.settings import QuotaSettings
from tests.unit.asgi_calls import Response, Upstream, call, scope_of
from tests.unit.wall_clock import WallClock

# No minute ends between two requests of a test.
pytestmark = pytest.mark.usefixtures("clock")
CHAT = "/v1/chat/completions"
NAMES = [f"x-ratelimit-{what}-{kind}" for kind in ("requests", "tokens") for what in ("limit", "remaining", "reset")]


class Engine(Upstream):
    """The app behind the quotas; each request uses as many tokens as told."""

    prompt, completion = 0, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (record := current()) is not None:
            record.prompt_tokens, record.completion_tokens = self.prompt, self.completion
        await super().__call__(scope, receive, send)


class Gate:
    """Quotas in front of an app; each request comes with ``key``."""

    def __init__(self, key: Key | None, app: App | None = None, book: Book | None = None, **settings: Any) -> None:
        self.engine = Engine()
        self.book = QuotaBook(MemoryStorage()) if book is None else book
        self.key = key
        self.quotas = Quotas(app or self.engine, self.book, QuotaSettings(**settings))
        self.app = RequestScope(self._keyed, (at_end.observe,))

    async def _keyed(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = current()
        assert record is not None
        record.key = self.key
        await self.quotas(scope, receive, send)

    def ask(self, path: str = CHAT, method: str = "POST") -> Response:
        return call(self.and_settle, scope_of(path, method=method))

    async def and_settle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and wait for what it left behind."""
        await self.app(scope, receive, send)
        await settle()


async def settle() -> None:
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))


def key(name: str = "team", **fields: Any) -> Key:
    return Key(name=name, prefix="ms-00000000", hash="0" * 64, **fields)


def counted(metric: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"mistral_serve_{metric}_total", labels) or 0


class TestRefusals:
    def test_beyond_the_requests_of_a_minute_is_429_with_the_wait(self) -> None:
        gate = Gate(key(requests_per_minute=2))
        before = counted("rejections", key="team", reason="quota")
        assert [gate.ask().status for _ in range(2)] == [200, 200]
        response = gate.ask()
        assert response.status == 429
        assert (response.error["type"], response.error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        wait = response.headers["retry-after"]
        assert 59 <= int(wait) <= 60
        assert response.error["message"] == (
            f"This key has used up its quota of 2 requests per minute. Send the request again in {wait} s."
        )
        assert len(gate.engine.scopes) == 2
        assert counted("rejections", key="team", reason="quota") == before + 1

    def test_beyond_the_tokens_of_a_minute_is_429(self) -> None:
        gate = Gate(key(tokens_per_minute=10))
        gate.engine.prompt, gate.engine.completion = 8, 3
        assert gate.ask().status == 200
        assert "10 tokens per minute" in gate.ask().error["message"]

    def test_both_quotas_are_named_when_both_are_used_up(self) -> None:
        gate = Gate(key(requests_per_minute=1, tokens_per_minute=10))
        gate.engine.prompt = 10
        gate.ask()
        assert "10 tokens and 1 requests per minute" in gate.ask().error["message"]

    def test_the_wait_is_true(self, clock: WallClock) -> None:
        gate = Gate(key(requests_per_minute=1))
        gate.ask()
        clock.now += int(gate.ask().headers["retry-after"])
        assert gate.ask().status == 200

    def test_anthropics_clients_find_their_error(self) -> None:
        gate = Gate(key(requests_per_minute=1))
        gate.ask("/v1/messages")
        response = gate.ask("/v1/messages")
        assert (response.status, response.body[:17]) == (429, b'{"type": "error",')


class TestWhoIsCounted:
    def test_a_keys_own_quota_comes_before_the_settings(self) -> None:
        gate = Gate(key(requests_per_minute=3), requests_per_minute=1, tokens_per_minute=100)
        assert [gate.ask().status for _ in range(4)] == [200, 200, 200, 429]
        assert gate.ask().headers["x-ratelimit-limit-tokens"] == "100"

    def test_keys_without_a_quota_are_held_to_that_of_the_settings_each_for_itself(self) -> None:
        gate = Gate(key("a"), requests_per_minute=1)
        assert [gate.ask().status for _ in range(2)] == [200, 429]
        gate.key = key("b")
        assert gate.ask().status == 200

    def test_two_keys_of_one_name_share_their_quota(self) -> None:
        gate = Gate(key(requests_per_minute=1))
        gate.ask()
        gate.key = Key(name="team", prefix="ms-11111111", hash="1" * 64, requests_per_minute=1)
        assert gate.ask().status == 429

    @pytest.mark.parametrize("path", sorted(GENERATING))
    def test_every_route_that_generates_is_counted(self, path: str) -> None:
        gate = Gate(key(requests_per_minute=1))
        assert [gate.ask(path).status for _ in range(2)] == [200, 429]

    @pytest.mark.parametrize("path", sorted({*RULES, *JSON_ROUTES, "/nowhere"} - GENERATING))
    def test_no_other_route_is(self, path: str) -> None:
        gate = Gate(key(requests_per_minute=1))
        assert [gate.ask(path).status for _ in range(2)] == [200, 200]

    @pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
    def test_only_a_post_is_counted(self, method: str) -> None:
        gate = Gate(key(requests_per_minute=1))
        assert [gate.ask(method=method).status for _ in range(2)] == [200, 200]

    def test_a_request_without_a_key_is_not_counted(self) -> None:
        gate = Gate(None, requests_per_minute=1)
        assert [gate.ask().status for _ in range(2)] == [200, 200]

    def test_without_any_quota_nobody_asks_the_book(self) -> None:
        gate = Gate(key(), book=redis_book(QuotaSettings(redis_url="redis://127.0.0.1:1")), on_failure="refuse")
        gate.engine.prompt = 5
        response = gate.ask()
        assert (response.status, [name for name in NAMES if name in response.headers]) == (200, [])

    def test_the_start_of_the_server_passes(self) -> None:
        gate = Gate(key(requests_per_minute=1))
        call(gate.quotas, {"type": "lifespan"})
        assert gate.engine.scopes == [{"type": "lifespan"}]


class TestHeaders:
    def test_they_tell_what_is_left(self) -> None:
        gate = Gate(key(requests_per_minute=5, tokens_per_minute=100))
        gate.engine.prompt = 30
        first, second = gate.ask(), gate.ask()
        assert [first.headers[name] for name in NAMES] == ["5", "4", "1m0s", "100", "100", "0s"]
        assert [second.headers[name] for name in NAMES[:2] + NAMES[3:5]] == ["5", "3", "100", "70"]
        assert re.fullmatch(r"[1-5]?\ds|1m0s", second.headers["x-ratelimit-reset-tokens"])

    def test_they_stand_on_a_refusal_and_on_an_error_of_the_app(self) -> None:
        gate = Gate(key(requests_per_minute=1))
        gate.engine.status = 400
        assert gate.ask().headers["x-ratelimit-remaining-requests"] == "0"
        refused = gate.ask()
        assert refused.status == 429
        assert [refused.headers.get(name) for name in NAMES[:2] + NAMES[3:]] == ["1", "0", None, None, None]

    @pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (1, "1s"), (59, "59s"), (60, "1m0s"), (360, "6m0s")])
    def test_a_time_is_written_as_openai_writes_it(self, seconds: int, text: str) -> None:
        assert quotas._duration(seconds) == text


class TestCharges:
    def test_an_app_that_fails_is_charged_too(self) -> None:
        gate = Gate(key(tokens_per_minute=10))
        gate.engine.completion, gate.engine.fails = 10, RuntimeError("broken")

        async def survived(scope: Scope, receive: Receive, send: Send) -> None:
            with contextlib.suppress(RuntimeError):
                await gate.app(scope, receive, send)
            await settle()

        call(survived, scope_of(CHAT))
        assert gate.ask().status == 429

    def test_a_stream_that_is_cancelled_is_charged_what_it_used(self) -> None:
        async def endless(scope: Scope, receive: Receive, send: Send) -> None:
            record = current()
            assert record is not None
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                record.completion_tokens += 1
                await send({"type": "http.response.body", "body": b"x", "more_body": True})

        gate = Gate(key(tokens_per_minute=100), endless)

        async def hung_up(scope: Scope, receive: Receive, send: Send) -> None:
            sent = 0

            async def counting(message: Any) -> None:
                nonlocal sent
                sent += message["type"] == "http.response.body"
                if sent == 7:
                    request.cancel()
                await asyncio.sleep(0)

            request = asyncio.create_task(gate.app(scope, receive, counting))
            with contextlib.suppress(asyncio.CancelledError):
                await request
            await settle()
            verdict = await gate.book.take("team", None, 100)
            assert verdict.windows["tokens"].remaining == 93

        call(hung_up, scope_of(CHAT))

    def test_a_client_that_hangs_up_without_a_stream_is_charged_what_is_counted_at_the_end(self) -> None:
        async def as_metered(scope: Scope, receive: Receive, send: Send) -> None:
            record = current()
            assert record is not None
            record.prompt_tokens = 3

            def abandon() -> None:
                record.completion_tokens = 40

            at_end.at_end(abandon)
            while (await receive())["type"] != "http.disconnect":
                pass

        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            await gate.and_settle(scope, receive, send)
            verdict = await gate.book.take("team", None, 100)
            assert verdict.windows["tokens"].remaining == 57

        gate = Gate(key(tokens_per_minute=100), as_metered)
        call(run, scope_of(CHAT))

    def test_nobody_waits_for_the_charge(self) -> None:
        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            await gate.app(scope, receive, send)
            verdict = await gate.book.take("team", None, 10)
            assert verdict.windows["tokens"].remaining == 10
            await settle()
            verdict = await gate.book.take("team", None, 10)
            assert verdict.windows["tokens"].remaining == 6

        gate = Gate(key(tokens_per_minute=10))
        gate.engine.prompt, gate.engine.completion = 1, 3
        call(run, scope_of(CHAT))


@contextlib.asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """The port of a server that takes connections and never answers."""

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(ignore, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def nobody(port: int = 1) -> QuotaBook:
    """A book in a Redis that is not there. Port 1 needs root's rights to be listened on, and nobody does."""
    book = redis_book(QuotaSettings(redis_url=f"redis://127.0.0.1:{port}/0"))
    book.timeout_s = 60
    return book


class TestFailure:
    @pytest.fixture(autouse=True)
    def _info_is_logged(self, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
        with caplog.at_level(logging.INFO, logger="ray.serve"):
            yield

    def test_requests_pass_by_default_and_every_failure_is_counted(self) -> None:
        gate, before = Gate(key(requests_per_minute=1), book=nobody()), counted("quota_failures")
        for _ in range(3):
            response = gate.ask()
            assert (response.status, [name for name in NAMES if name in response.headers]) == (200, [])
        assert counted("quota_failures") == before + 3

    def test_requests_are_refused_by_setting(self) -> None:
        gate = Gate(key(requests_per_minute=1), book=nobody(), on_failure="refuse")
        before = counted("rejections", key="team", reason="quota")
        response = gate.ask()
        assert (response.status, response.error["type"]) == (503, "server_error")
        assert response.error["code"] == "quota_unavailable"
        assert response.headers["retry-after"] == str(RETRY_AFTER_FAILURE_S)
        assert counted("rejections", key="team", reason="quota") == before + 1
        assert gate.engine.scopes == []

    def test_a_storage_that_never_answers_does_not_stall_a_request(self) -> None:
        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            async with silent_server() as port:
                book = nobody(port)
                book.timeout_s = 0.05
                gate = Gate(key(requests_per_minute=1), book=book)
                async with asyncio.timeout(10):
                    await gate.app(scope, receive, send)

        assert call(run, scope_of(CHAT)).status == 200

    def test_it_is_logged_once_without_the_address_and_again_when_it_is_over(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        gate = Gate(key(tokens_per_minute=100), book=nobody())
        gate.engine.prompt = 1
        for _ in range(3):
            gate.ask()
        gate.quotas._book = QuotaBook(MemoryStorage())
        for _ in range(3):
            gate.ask()
        assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
            ("WARNING", "quotas cannot be counted (ConnectionError); quotas.on_failure decides"),
            ("INFO", "quotas are counted again"),
        ]
