"""Prevents: a key that uses more than its quota, a wait that was not long enough, and counts of two keys that mix."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from limits.aio.storage import MemoryStorage

from deploy.errors import UsageError
from deploy.gateway.quota_book import MOST_AHEAD, WINDOW_S, QuotaBook, Verdict, redis_book
from deploy.quota_actor import book_for
from deploy.settings import QuotaSettings, Settings
from tests.unit.wall_clock import WallClock

ODD_NAMES = ["", "a", "a/", "a/1", "a/1/60", "a b", "ä/ö", "{a}", "*", "a:b", "\n", "requests/a", "x" * 5000]


def check(scenario: Callable[[QuotaBook], Awaitable[None]]) -> None:
    """Run a scenario on a new book."""

    async def run() -> None:
        await scenario(QuotaBook(MemoryStorage()))

    asyncio.run(run())


def admitted(verdict: Verdict) -> bool:
    return not verdict.exhausted


async def rest_of_the_window(book: QuotaBook, key_name: str = "a") -> float:
    """Seconds until its window of tokens ends; one token of another quota is used for that."""
    await book.charge(key_name, 7, 1)
    return (await book.take(key_name, None, 7)).windows["tokens"].reset_s


async def admissions(book: QuotaBook, count: int, *quota: Any) -> list[bool]:
    return [admitted(await book.take(*quota)) for _ in range(count)]


class TestRequests:
    def test_as_many_as_the_quota_are_admitted_in_a_minute(self, clock: WallClock) -> None:
        async def scenario(book: QuotaBook) -> None:
            for remaining in (2, 1, 0):
                window = (await book.take("a", 3, None)).windows["requests"]
                assert (window.limit, window.remaining) == (3, remaining)
                assert window.reset_s == pytest.approx(WINDOW_S)
            assert await admissions(book, 3, "a", 3, None) == [False] * 3
            clock.now += WINDOW_S
            assert await admissions(book, 4, "a", 3, None) == [True] * 3 + [False]

        check(scenario)

    def test_a_window_begins_with_the_first_request_not_with_the_minute(self, clock: WallClock) -> None:
        async def scenario(book: QuotaBook) -> None:
            await book.take("a", 2, None)
            clock.now += 40
            assert (await book.take("a", 2, None)).windows["requests"].reset_s == pytest.approx(20)

        check(scenario)

    def test_of_many_requests_at_once_exactly_the_quota_is_admitted(self) -> None:
        async def scenario(book: QuotaBook) -> None:
            verdicts = await asyncio.gather(*(book.take("a", 10, 1000) for _ in range(100)))
            assert sum(map(admitted, verdicts)) == 10

        check(scenario)

    def test_a_changed_quota_counts_anew(self) -> None:
        async def scenario(book: QuotaBook) -> None:
            assert await admissions(book, 2, "a", 1, None) == [True, False]
            assert admitted(await book.take("a", 2, None))

        check(scenario)


class TestTokens:
    def test_any_rest_admits_and_what_exceeds_it_exhausts_the_window(self, clock: WallClock) -> None:
        async def scenario(book: QuotaBook) -> None:
            await book.charge("a", 100, 99)
            verdict = await book.take("a", None, 100)
            assert (admitted(verdict), verdict.windows["tokens"].remaining) == (True, 1)
            await book.charge("a", 100, 1)
            verdict = await book.take("a", None, 100)
            assert (admitted(verdict), verdict.windows["tokens"].remaining) == (False, 0)
            clock.now += verdict.retry_after
            verdict = await book.take("a", None, 100)
            assert (admitted(verdict), verdict.windows["tokens"].remaining) == (True, 100)

        check(scenario)

    @pytest.mark.parametrize(("charges", "windows", "left"), [([101], 1, 99), ([250], 2, 50), ([99, 99, 99], 2, 3)])
    def test_an_excess_is_charged_to_the_next_windows(
        self, clock: WallClock, charges: list[int], windows: int, left: int
    ) -> None:
        async def scenario(book: QuotaBook) -> None:
            rest_s = await rest_of_the_window(book)
            for tokens in charges:
                await book.charge("a", 100, tokens)
            refused = await book.take("a", None, 100)
            end_s = rest_s + (windows - 1) * WINDOW_S
            assert refused.windows["tokens"].reset_s == pytest.approx(end_s)
            assert end_s <= refused.retry_after <= end_s + 1.5
            clock.now += end_s - 0.01
            assert not admitted(await book.take("a", None, 100))
            clock.now += 0.02
            verdict = await book.take("a", None, 100)
            assert (admitted(verdict), verdict.windows["tokens"].remaining) == (True, left)

        check(scenario)

    def test_a_key_never_gets_more_than_its_quota_of_the_minutes_that_passed(self, clock: WallClock) -> None:
        async def scenario(book: QuotaBook) -> None:
            used, began = 0, clock.now
            for _ in range(200):
                verdict = await book.take("a", None, 100)
                clock.now += verdict.retry_after
                # Three that run at once, each of most of a quota.
                for tokens in (90, 80, 70) if admitted(verdict) else ():
                    used += tokens
                    await book.charge("a", 100, tokens)
            minutes = (clock.now - began) / WINDOW_S
            assert used <= 100 * (minutes + 2) + 240

        check(scenario)

    def test_what_exceeds_ten_minutes_is_forgiven(self, clock: WallClock) -> None:
        async def scenario(book: QuotaBook) -> None:
            await book.charge("a", 100, 10**9)
            refused = await book.take("a", None, 100)
            assert MOST_AHEAD * WINDOW_S <= refused.retry_after <= (MOST_AHEAD + 1) * WINDOW_S
            clock.now += refused.retry_after
            assert admitted(await book.take("a", None, 100))

        check(scenario)

    def test_the_windows_of_different_keys_end_at_different_times(self, clock: WallClock) -> None:
        async def scenario(book: QuotaBook) -> None:
            assert len({await rest_of_the_window(book, f"team-{number}") for number in range(30)}) > 10

        check(scenario)

    @pytest.mark.usefixtures("clock")
    def test_the_last_token_of_the_quota_is_the_last_one(self) -> None:
        async def scenario(book: QuotaBook) -> None:
            await book.charge("a", 100, 100)
            assert not admitted(await book.take("a", None, 100))

        check(scenario)

    def test_requests_alone_use_no_tokens(self) -> None:
        async def scenario(book: QuotaBook) -> None:
            window = (await book.take("a", 5, 100)).windows["tokens"]
            assert (window.remaining, window.reset_s) == (100, 0)

        check(scenario)

    def test_a_charge_of_nothing_begins_no_window(self) -> None:
        async def scenario(book: QuotaBook) -> None:
            await book.charge("a", 100, 0)
            assert (await book.take("a", None, 100)).windows["tokens"].reset_s == 0

        check(scenario)

    def test_a_request_refused_for_its_tokens_is_not_counted(self, clock: WallClock) -> None:
        async def scenario(book: QuotaBook) -> None:
            await book.charge("a", 100, 100)
            assert await admissions(book, 5, "a", 2, 100) == [False] * 5
            clock.now += (await book.take("a", 2, 100)).retry_after
            assert await admissions(book, 3, "a", 2, 100) == [True, True, False]

        check(scenario)

    @pytest.mark.usefixtures("clock")
    def test_charges_at_once_lose_nothing(self) -> None:
        async def scenario(book: QuotaBook) -> None:
            await asyncio.gather(*(book.charge("a", 10_000, 7) for _ in range(100)))
            assert (await book.take("a", None, 10_000)).windows["tokens"].remaining == 10_000 - 700

        check(scenario)


class TestWaiting:
    @pytest.mark.parametrize("passed", [0, 0.01, 0.5, 17.3, 59, 59.5, 59.99])
    def test_waiting_as_long_as_told_succeeds_and_is_at_most_1_5_s_too_long(
        self, clock: WallClock, passed: float
    ) -> None:
        async def scenario(book: QuotaBook) -> None:
            await book.take("a", 1, None)
            clock.now += passed
            refused = await book.take("a", 1, None)
            # Older clients of Anthropic ignore a longer wait than 60 s.
            assert WINDOW_S - passed <= refused.retry_after <= min(60, WINDOW_S - passed + 1.5)
            clock.now += refused.retry_after
            assert admitted(await book.take("a", 1, None))

        check(scenario)

    @pytest.mark.parametrize("seconds", range(0, 60, 7))
    @pytest.mark.parametrize("tokens", [100, 250])
    def test_with_both_quotas_used_up_the_later_end_is_told(self, clock: WallClock, seconds: int, tokens: int) -> None:
        async def scenario(book: QuotaBook) -> None:
            clock.now += seconds
            await book.take("a", 1, 100)
            await book.charge("a", 100, tokens)
            refused = await book.take("a", 1, 100)
            assert set(refused.exhausted) == {"requests", "tokens"}
            assert refused.retry_after == max(window.wait_s for window in refused.windows.values())
            clock.now += refused.retry_after
            assert admitted(await book.take("a", 1, 100))

        check(scenario)

    def test_who_is_admitted_need_not_wait(self) -> None:
        async def scenario(book: QuotaBook) -> None:
            assert (await book.take("a", 1, 1)).retry_after == 0

        check(scenario)


class TestNamesAndNumbers:
    def test_no_name_shares_its_counts_with_another(self) -> None:
        async def scenario(book: QuotaBook) -> None:
            for limit in (1, 60):
                for name in ODD_NAMES:
                    assert admitted(await book.take(name, limit, limit))
                    await book.charge(name, limit, limit)
            assert [name for name in ODD_NAMES if admitted(await book.take(name, 1, 1))] == []

        check(scenario)

    @pytest.mark.usefixtures("clock")
    def test_huge_quotas_and_charges_are_exact(self) -> None:
        async def scenario(book: QuotaBook) -> None:
            limit = 10**30
            await book.charge("a", limit, 10**12)
            verdict = await book.take("a", limit, limit)
            assert verdict.windows["requests"].remaining == limit - 1
            assert verdict.windows["tokens"].remaining == limit - 10**12

        check(scenario)

    def test_without_quotas_nothing_is_counted(self) -> None:
        async def scenario(book: QuotaBook) -> None:
            assert (await book.take("a", None, None)).windows == {}

        check(scenario)


def redis(**fields: Any) -> QuotaSettings:
    return QuotaSettings(storage="redis", **{"redis_url": "redis://localhost:6379/0"} | fields)


class TestRedisSettings:
    @pytest.mark.parametrize(
        "url",
        [
            "redis://localhost:6379",
            "redis://10.0.0.1:6379/3",
            "rediss://user@[::1]:6380/",
        ],
    )
    def test_an_address_is_taken_and_nothing_is_connected_yet(self, url: str) -> None:
        assert isinstance(redis_book(redis(redis_url=url)), QuotaBook)

    @pytest.mark.parametrize(
        "url",
        [
            "localhost:6379",
            "http://localhost:6379",
            "redis://",
            "redis:///0",
            "redis://localhost",
            "redis://localhost:port",
            "redis://localhost:99999",
            "redis://localhost:0",
            "redis://localhost/first",
            "redis://localhost/0?password=hunter2",
            "redis://[::1",
            " ",
        ],
    )
    def test_anything_else_is_refused_with_the_form_and_without_what_it_held(self, url: str) -> None:
        with pytest.raises(UsageError) as caught:
            redis_book(redis(redis_url=url))
        assert "redis://HOST:PORT/DATABASE" in str(caught.value)
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize("user", ["", "user"])
    def test_a_password_in_the_address_is_sent_to_its_file_and_not_shown(self, user: str) -> None:
        with pytest.raises(UsageError, match=r"redis_password_file") as caught:
            redis_book(redis(redis_url=f"redis://{user}:hunter2@localhost:6379"))
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "words"), [(None, "No such file"), (b"", "is empty"), (b"\n", "is empty"), (b"\xff", "UTF-8")]
    )
    def test_a_password_file_that_cannot_be_used_is_named(
        self, tmp_path: Path, content: bytes | None, words: str
    ) -> None:
        file = tmp_path / "password"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(UsageError, match=words) as caught:
            redis_book(redis(redis_password_file=file))
        assert str(file) in str(caught.value)


class TestBookOfADeployment:
    @pytest.mark.parametrize(
        "settings",
        [{"gateway": {"keys": "off"}}, {}, {"gateway": {"keys": "on"}, "quotas": {"enabled": False}}],
        ids=["keys off", "no keys needed", "quotas off"],
    )
    def test_there_is_none_where_nothing_is_counted(self, settings: dict[str, Any]) -> None:
        assert book_for(Settings.model_validate(settings)) is None

    def test_it_is_in_the_only_replica(self) -> None:
        book = book_for(Settings.model_validate({"gateway": {"keys": "on"}}))
        assert isinstance(book, QuotaBook)
        assert isinstance(book._storage, MemoryStorage)

    def test_it_is_in_redis_by_setting(self) -> None:
        quotas = {"storage": "redis", "redis_url": "redis://localhost:6379"}
        book = book_for(Settings.model_validate({"gateway": {"keys": "on"}, "quotas": quotas}))
        assert isinstance(book, QuotaBook)
