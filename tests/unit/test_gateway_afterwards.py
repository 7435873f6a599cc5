"""Prevents: a request that waits for the last one's logs and traces, and an ended one that nobody is told of."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

from deploy.gateway.afterwards import AT_ONCE, MOST_WAITING, Afterwards
from deploy.gateway.observed import BATCH_S
from deploy.gateway.request import RequestRecord
from tests.unit.records import arrived, end

Told = list[RequestRecord]


def afterwards(check: Callable[[Afterwards, Told], Awaitable[None]], delay_s: float = BATCH_S) -> None:
    """Run ``check`` in an event loop with an observer that remembers what it was told."""
    told: Told = []

    async def run() -> None:
        observer = Afterwards([told.append], delay_s)
        try:
            await check(observer, told)
        finally:
            observer.close()

    asyncio.run(run())


def ended(count: int) -> list[RequestRecord]:
    return [end(arrived()) for _ in range(count)]


def same(told: Told, records: list[RequestRecord]) -> bool:
    return list(map(id, told)) == list(map(id, records))


def test_ended_requests_are_told_together_and_in_order_after_the_delay() -> None:
    async def check(observer: Afterwards, told: Told) -> None:
        first, second = ended(2)
        observer(first)
        await asyncio.sleep(0)
        observer(second)
        assert told == []
        await asyncio.sleep(2 * BATCH_S)
        assert same(told, [first, second])
        (third,) = ended(1)
        observer(third)
        await asyncio.sleep(2 * BATCH_S)
        assert same(told, [first, second, third])

    afterwards(check)


def test_a_request_that_comes_is_told_at_once() -> None:
    async def check(observer: Afterwards, told: Told) -> None:
        records = [arrived(), arrived()]
        for record in records:
            observer(record)
        assert same(told, records)

    afterwards(check)


def test_each_observer_is_told_of_a_whole_batch_before_the_next() -> None:
    told: list[tuple[str, RequestRecord]] = []

    async def tell() -> None:
        observer = Afterwards([lambda record: told.append(("a", record)), lambda record: told.append(("b", record))])
        for record in ended(2):
            observer(record)
        observer.close()

    asyncio.run(tell())
    assert [name for name, _ in told] == ["a", "a", "b", "b"]


def test_a_turn_of_the_event_loop_tells_of_few() -> None:
    async def check(observer: Afterwards, told: Told) -> None:
        records = ended(2 * AT_ONCE + 1)
        for record in records:
            observer(record)
        seen = [len(told)]
        while len(told) < len(records):
            await asyncio.sleep(0)
            seen.append(len(told))
        assert max(after - before for before, after in pairwise(seen)) == AT_ONCE
        assert same(told, records)

    afterwards(check, delay_s=0)


def test_only_so_many_wait_however_many_come_before_the_loop_has_a_turn() -> None:
    async def check(observer: Afterwards, told: Told) -> None:
        records = ended(10 * MOST_WAITING)
        for number, record in enumerate(records, 1):
            observer(record)
            assert number - len(told) <= MOST_WAITING
        assert same(told, records[: len(told)])

    afterwards(check)


def test_the_end_tells_of_what_is_left() -> None:
    async def check(observer: Afterwards, told: Told) -> None:
        records = ended(AT_ONCE + 1)
        for record in records:
            observer(record)
        observer.close()
        assert same(told, records)
        await asyncio.sleep(2 * BATCH_S)
        assert same(told, records)

    afterwards(check)
