"""The keys that are valid now: read from their file, and again whenever it changes."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from deploy.errors import UsageError
from deploy.gateway.key_file import Key, prefix_of, read

CHECK_PERIOD_S = 1.0
"""A changed file is noticed by the first request that comes this long after the check before."""

# The replica's own log, where an operator looks for what a replica did.
logger = logging.getLogger("ray.serve")


class KeyStore:
    """Keys by prefix. A file that becomes unreadable or wrong leaves the keys as they were.

    Raises:
        UsageError: the file cannot be used when the store is made.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._version = version_of(path)
        self._next_check = clock() + CHECK_PERIOD_S
        self._keys = self._read()

    def find(self, token: bytes) -> Key | None:
        """The entry of this key, expired and disabled ones too; ``None`` when the file has none."""
        key = self._keys.get(prefix_of(token))
        return key if key is not None and key.opens(token) else None

    async def refresh(self) -> None:
        """Read the file again if it has changed; between two checks this costs one look at the clock."""
        now = self._clock()
        if now < self._next_check:
            return
        self._next_check = now + CHECK_PERIOD_S
        version = version_of(self._path)
        if version == self._version:
            return
        self._version = version
        try:
            # Parsing a long file takes longer than a stream may wait for its next token.
            self._keys = await asyncio.to_thread(self._read)
        except UsageError as error:
            logger.warning("%s; the keys read before stay valid", error)
        else:
            logger.info("%d API keys read from %s", len(self._keys), self._path)

    def _read(self) -> dict[str, Key]:
        return {key.prefix: key for key in read(self._path).keys}


def version_of(path: Path) -> tuple[int, ...] | None:
    """What changes when the file is replaced or written to; a mounted secret is a link that is turned to a new file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
