"""Counts of what each key used in the minute that runs, in a storage of the ``limits`` library.

When a window ends is known: that is what makes a stated wait true. A window of requests begins with the first one that
is counted in it and lasts for a minute. The windows of tokens follow each other without a gap, so that what a
completion used beyond its window can be charged to the next ones.

The windows are ``limits``' fixed ones. Its moving window keeps an entry for every unit that is used, which a quota in
tokens forbids, and its sliding counter cannot be charged beyond the limit, as a completion that turned out long has to
be.
"""

import math
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

from deploy.errors import UsageError
from deploy.settings import QuotaSettings

if TYPE_CHECKING:
    from limits.aio.storage import Storage

WINDOW_S = 60
TIMEOUT_S = 1.0
"""Longest wait for the counts. A healthy storage answers in milliseconds; a dead one must not stall requests."""

PREFIX = "mistral-serve"
"""What the names of all counts in Redis begin with."""

MOST_AHEAD = 10
"""Windows that one excess of tokens may use up besides its own; what is beyond them is forgiven. Every request that
comes meanwhile looks at all of them."""

_ROUNDING_S = 0.5
"""Redis tells how long a count still lives rounded to the nearest second (``TTL``); clocks of nodes differ by less."""

Kind = Literal["requests", "tokens"]


@dataclass(frozen=True)
class Window:
    """One quota in the minute that runs. ``exhausted``: nothing was left for the request that asked.

    ``limit`` and ``remaining`` are requests or tokens. ``reset_s`` is in how many seconds the window ends, and with it
    those after it that are used up already; 0 when nothing was used. After ``wait_s``, whole seconds, that is certain.
    """

    limit: int
    remaining: int
    reset_s: float
    wait_s: int
    exhausted: bool


@dataclass(frozen=True)
class Verdict:
    """What the book says of one request: the windows of the key's quotas; none of what is not limited."""

    windows: dict[Kind, Window]

    @property
    def exhausted(self) -> dict[Kind, Window]:
        """The windows that refuse the request; empty when it was admitted and counted."""
        return {kind: window for kind, window in self.windows.items() if window.exhausted}

    @property
    def retry_after(self) -> int:
        """Seconds after which every window that refuses the request has ended; 0 when none does."""
        return max((window.wait_s for window in self.exhausted.values()), default=0)


class Book(Protocol):
    """Where the counts are. Any exception means that they could not be reached."""

    @property
    def timeout_s(self) -> float:
        """How long the next answer may take, in seconds."""

    async def take(self, key_name: str, requests_per_minute: int | None, tokens_per_minute: int | None) -> Verdict:
        """Count one request of the key, if both quotas have something left; a quota of ``None`` is no limit."""

    async def charge(self, key_name: str, tokens_per_minute: int, tokens: int) -> None:
        """Count the tokens that a request used; what exceeds the quota is charged to the next minutes."""


class QuotaBook:
    """The counts in one storage; all books on one Redis share them.

    Counts belong to a key's name and its limit together: a changed limit begins anew.
    """

    def __init__(self, storage: "Storage", window_s: int = WINDOW_S) -> None:
        self._storage, self._window_s = storage, window_s
        self.timeout_s = TIMEOUT_S

    async def take(self, key_name: str, requests_per_minute: int | None, tokens_per_minute: int | None) -> Verdict:
        """See ``Book.take``. What a request will use is not known yet, so any rest of the tokens admits it."""
        windows: dict[Kind, Window] = {}
        if tokens_per_minute is not None:
            windows["tokens"] = await self._tokens(key_name, tokens_per_minute)
        if requests_per_minute is not None:
            refused = any(window.exhausted for window in windows.values())
            # Looked at even then, because the wait must last until both windows have something left.
            windows["requests"] = await self._requests(key_name, requests_per_minute, cost=0 if refused else 1)
        return Verdict(windows)

    async def charge(self, key_name: str, tokens_per_minute: int, tokens: int) -> None:
        """See ``Book.charge``."""
        first, _ = token_window(key_name, self._window_s)
        for index in range(first, first + MOST_AHEAD + 1):
            if tokens <= 0:
                return
            lifetime_s = self._window_s * (index - first + 2)
            used = await self._storage.incr(
                self._name("tokens", key_name, tokens_per_minute, index), lifetime_s, tokens
            )
            tokens = min(tokens, used - tokens_per_minute)

    async def _requests(self, key_name: str, limit: int, cost: int) -> Window:
        """The window after ``cost`` was counted in it. A refused request is counted too, which changes nothing."""
        name, storage = self._name("requests", key_name, limit), self._storage
        used = await storage.incr(name, self._window_s, cost) if cost else await storage.get(name)
        reset_s = max(0.0, await storage.get_expiry(name) - time.time()) if used else 0.0
        return Window(limit, max(0, limit - used), reset_s, self._wait_s(reset_s, 1), exhausted=used - cost >= limit)

    async def _tokens(self, key_name: str, limit: int) -> Window:
        """The window that runs, and how many from it on are used up."""
        first, rest_s = token_window(key_name, self._window_s)
        used_up = 0
        used = now = await self._storage.get(self._name("tokens", key_name, limit, first))
        while used >= limit and used_up <= MOST_AHEAD:
            used_up += 1
            used = await self._storage.get(self._name("tokens", key_name, limit, first + used_up))
        reset_s = rest_s + self._window_s * max(0, used_up - 1) if now else 0.0
        wait_s = self._wait_s(reset_s, max(1, used_up))
        return Window(limit, max(0, limit - now), reset_s, wait_s, exhausted=used_up > 0)

    def _wait_s(self, reset_s: float, windows: int) -> int:
        # One window is not waited for longer than it lasts: older clients of Anthropic ignore more than 60 s.
        return min(self._window_s * windows, math.ceil(reset_s + _ROUNDING_S))

    def _name(self, kind: Kind, key_name: str, limit: int, *number: int) -> str:
        return "/".join(map(str, (kind, key_name, limit, self._window_s, *number)))


def token_window(key_name: str, window_s: int = WINDOW_S) -> tuple[int, float]:
    """Number of the key's window of tokens that runs, and in how many seconds it ends.

    Those of different keys end at different times: whoever waits for an end comes when it has come.
    """
    number, passed_s = divmod(time.time() + zlib.crc32(key_name.encode()) % window_s, window_s)
    return int(number), window_s - passed_s


def redis_book(settings: QuotaSettings, window_s: int = WINDOW_S) -> QuotaBook:
    """A book in the Redis that ``settings`` name; it connects when it is first asked, and again after a failure.

    Raises:
        UsageError: the address is not Redis's, or the password file cannot be used.
    """
    # Only who keeps counts in Redis waits for these imports.
    from limits.aio.storage import RedisStorage
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError

    options: dict[str, Any] = {
        "password": redis_password(settings),
        # Once and at once: a connection may have gone stale. Whoever asks has a time limit of its own.
        "retry": Retry(NoBackoff(), retries=1, supported_errors=(RedisConnectionError,)),
    }
    address = f"async+{checked_address(settings)}"
    return QuotaBook(RedisStorage(address, implementation="redispy", key_prefix=PREFIX, **options), window_s)


def checked_address(settings: QuotaSettings) -> str:
    """``settings.redis_url``, well-formed.

    Raises:
        UsageError: it is not; the sentence quotes nothing of it, because it may hold a password.
    """
    url = settings.redis_url or ""
    try:
        parts = urlsplit(url)
        database = parts.path.removeprefix("/")
        well_formed = (
            parts.scheme in {"redis", "rediss"}
            and bool(parts.hostname)
            and bool(parts.port)
            and (not database or (database.isascii() and database.isdigit()))
            and not (parts.query or parts.fragment)
        )
    except ValueError:
        well_formed = False
    if not well_formed:
        raise UsageError(
            "quotas.redis_url is not Redis's address: give redis://HOST:PORT/DATABASE, or rediss:// for TLS"
        )
    if parts.password is not None:
        raise UsageError("quotas.redis_url holds a password: put it into a file and give quotas.redis_password_file")
    return url


def redis_password(settings: QuotaSettings) -> str | None:
    """What the password file holds; ``None`` without one.

    Raises:
        UsageError: the file cannot be read, or is empty.
    """
    path = settings.redis_password_file
    if path is None:
        return None
    try:
        password = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(
            f"quotas.redis_password_file {path} cannot be read ({reason}): mend it or its permissions"
        ) from None
    if not password:
        raise UsageError(f"quotas.redis_password_file {path} is empty: write Redis's password into it")
    return password
