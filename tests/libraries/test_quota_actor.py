"""Prevents: replicas whose counts are apart in the Ray actor, and an actor that stays dead, or stays behind.

Needs Ray, but no engine.
"""

import asyncio
import itertools
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.gateway.quota_book import TIMEOUT_S, WINDOW_S, Verdict, token_window
from deploy.quota_actor import NAMESPACE, START_S, ActorBook, actor_name, end_quota_actor
from tests.live.deployment import eventually, has_ended

APPLICATION = "counted"


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    import ray

    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 1024**2,
        namespace=NAMESPACE,
        _node_ip_address="127.0.0.1",
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def application(ray: Any) -> Iterator[str]:
    yield APPLICATION
    end_quota_actor(APPLICATION)
    eventually(lambda: actor_name(APPLICATION) not in ray.util.list_named_actors(), 30, "the actor is gone")


def take(book: ActorBook, requests: int | None, tokens: int | None = None) -> Verdict:
    return asyncio.run(asyncio.wait_for(book.take("team", requests, tokens), timeout=60))


def process_of(ray: Any, application: str) -> int:
    """The id of the process in which the actor of the application runs."""
    actor = ray.get_actor(actor_name(application), namespace=NAMESPACE)
    process: int = ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))
    return process


def test_two_books_share_their_counts_and_no_request_passes_twice(application: str) -> None:
    async def ask() -> list[Verdict]:
        books = [ActorBook(application), ActorBook(application)]
        return list(await asyncio.gather(*(book.take("team", 10, None) for book in books * 20)))

    verdicts = asyncio.run(ask())
    assert sum(not verdict.exhausted for verdict in verdicts) == 10
    assert {verdict.retry_after for verdict in verdicts if verdict.exhausted} <= set(range(1, 61))


def test_only_the_first_answer_may_take_as_long_as_the_actor_starts(application: str) -> None:
    book = ActorBook(application)
    assert book.timeout_s == START_S
    book.start()
    assert TIMEOUT_S < book.timeout_s < START_S
    take(book, 1)
    assert book.timeout_s == TIMEOUT_S


def test_a_charge_of_one_book_exhausts_the_other(application: str) -> None:
    first, second = ActorBook(application), ActorBook(application)
    assert not take(first, None, 100).exhausted
    # A key whose window of a minute has just begun.
    fresh = next(name for name in map(str, itertools.count()) if token_window(name)[1] > WINDOW_S - 5)

    async def charge_and_take() -> Verdict:
        await first.charge(fresh, 100, 150)
        return await second.take(fresh, None, 100)

    assert set(asyncio.run(charge_and_take()).exhausted) == {"tokens"}


def test_an_actor_that_dies_is_started_again_with_empty_counts(ray: Any, application: str) -> None:
    book = ActorBook(application)
    assert not take(book, 1).exhausted
    assert take(book, 1).exhausted
    os.kill(process_of(ray, application), signal.SIGKILL)

    def admitted() -> bool:
        try:
            return not take(book, 1).exhausted
        except ray.exceptions.RayActorError:
            return False

    eventually(admitted, 30, "the counts are there again")


def test_an_actor_that_was_ended_is_made_anew_by_whoever_asks_next(ray: Any, application: str) -> None:
    book = ActorBook(application)
    take(book, 1)
    process = process_of(ray, application)
    end_quota_actor(application)
    # Ray ends it behind the call, and until then it counts.
    eventually(lambda: has_ended(process), 30, "the actor is gone")
    with pytest.raises(ray.exceptions.RayActorError):
        take(book, 1)
    assert not take(book, 1).exhausted


def test_an_actor_outlives_the_replica_that_started_it(ray: Any, application: str) -> None:
    """Ray Serve puts each replica into a placement group, and what it starts too, unless that says where it belongs."""
    from ray.util import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    class Replica:
        async def take(self) -> bool:
            return (await ActorBook(application).take("team", 1, None)).exhausted != {}

    group = placement_group([{"CPU": 1}])
    place = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
    replica = ray.remote(Replica).options(num_cpus=1, scheduling_strategy=place).remote()
    assert not ray.get(replica.take.remote(), timeout=60)
    remove_placement_group(group)

    def gone() -> bool:
        try:
            ray.get(replica.take.remote(), timeout=60)
        except ray.exceptions.RayActorError:
            return True
        return False

    eventually(gone, 30, "the replica is gone")
    assert take(ActorBook(application), 1).exhausted


def test_ending_an_actor_that_is_not_there_is_nothing(ray: Any) -> None:
    end_quota_actor("nobody")
