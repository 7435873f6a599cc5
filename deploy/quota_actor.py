"""Where a deployment keeps the counts of its quotas: in its only replica, in a named Ray actor of its own, or in Redis.

The actor is detached, because the replica that happens to create it may end before the others. It goes with its
cluster; on a shared cluster somebody has to end it (``end_quota_actor``).
"""

import time
from typing import Any

from deploy.gateway.key_file import read
from deploy.gateway.quota_book import TIMEOUT_S, Book, QuotaBook, Verdict, redis_book
from deploy.settings import Settings

NAMESPACE = "mistral-serve"
START_S = 20.0
"""Longest wait for the first answer of all: requests that come while the actor starts are to be counted too."""


def book_for(settings: Settings) -> Book | None:
    """The book of this deployment, for a replica to call; ``None`` where nothing is to be counted.

    Raises:
        UsageError: Redis's address or password file, or the key file, cannot be used.
    """
    if not (settings.quotas.enabled and settings.keys_required):
        return None
    if settings.quotas.storage == "redis":
        return redis_book(settings.quotas)
    if settings.scaling.most_replicas == 1:
        from limits.aio.storage import MemoryStorage

        # Nobody to share them with: the actor would cost every request a message there and one back, milliseconds.
        return QuotaBook(MemoryStorage())
    from ray import serve

    book = ActorBook(serve.get_replica_context().app_name)
    if _has_quotas(settings):
        # Otherwise with the first request of a key that is given a quota later.
        book.start()
    return book


def _has_quotas(settings: Settings) -> bool:
    path, quotas = settings.gateway.keys_file, settings.quotas
    limits = [quotas.requests_per_minute, quotas.tokens_per_minute]
    for key in () if path is None else read(path).keys:
        limits += [key.requests_per_minute, key.tokens_per_minute]
    return any(limit is not None for limit in limits)


class QuotaActor:
    """What runs in the actor: one book in its memory. Counts that die with it are those of one minute."""

    def __init__(self) -> None:
        from limits.aio.storage import MemoryStorage

        self._book = QuotaBook(MemoryStorage())

    async def take(self, key_name: str, requests_per_minute: int | None, tokens_per_minute: int | None) -> Verdict:
        """See ``Book.take``."""
        return await self._book.take(key_name, requests_per_minute, tokens_per_minute)

    async def charge(self, key_name: str, tokens_per_minute: int, tokens: int) -> None:
        """See ``Book.charge``."""
        await self._book.charge(key_name, tokens_per_minute, tokens)


class ActorBook:
    """The book in the actor of one application; one message there and back for each call."""

    def __init__(self, application: str) -> None:
        self._name = actor_name(application)
        self._actor: Any = None
        self._first_answer_by: float | None = None

    @property
    def timeout_s(self) -> float:
        """``TIMEOUT_S``, but until ``START_S`` after the first start the rest of it, unless the actor has answered."""
        return START_S if self._first_answer_by is None else max(TIMEOUT_S, self._first_answer_by - time.monotonic())

    def start(self) -> Any:
        """Find the actor, or start it; any replica may be the first, and none waits until it runs."""
        import ray

        options: dict[str, Any] = {
            "name": self._name,
            "namespace": NAMESPACE,
            "get_if_exists": True,
            "lifetime": "detached",
            "num_cpus": 0,
            "max_restarts": -1,
            # Not in the placement group of the replica that starts it, with which Ray would end it for good.
            "scheduling_strategy": "DEFAULT",
        }
        if self._first_answer_by is None:
            self._first_answer_by = time.monotonic() + START_S
        self._actor = ray.remote(QuotaActor).options(**options).remote()
        return self._actor

    async def take(self, key_name: str, requests_per_minute: int | None, tokens_per_minute: int | None) -> Verdict:
        """See ``Book.take``."""
        verdict: Verdict = await self._call("take", key_name, requests_per_minute, tokens_per_minute)
        return verdict

    async def charge(self, key_name: str, tokens_per_minute: int, tokens: int) -> None:
        """See ``Book.charge``."""
        await self._call("charge", key_name, tokens_per_minute, tokens)

    async def _call(self, method: str, *arguments: Any) -> Any:
        from ray.exceptions import RayActorError

        actor = self.start() if self._actor is None else self._actor
        try:
            answer = await getattr(actor, method).remote(*arguments)
        except RayActorError:
            # An actor that was ended for good is not restarted: the next call finds or starts one.
            self._actor = None
            raise
        # It came: what follows may take no longer than usual.
        self._first_answer_by = 0.0
        return answer


def actor_name(application: str) -> str:
    """Name of the actor of a Ray Serve application."""
    return f"{application}-quotas"


def end_quota_actor(application: str) -> None:
    """End the actor of an application that is removed from a cluster which stays; nothing happens if there is none."""
    import ray

    try:
        actor = ray.get_actor(actor_name(application), namespace=NAMESPACE)
    except ValueError:
        return
    ray.kill(actor)
