"""The files of the usage log: what a line holds, how the files are called, and appending to them.

Every replica process writes files of its own, one for each UTC day: all lines of a request go to the file of the day
on which it came, so that a request is in one file whatever it lasts. A running request is written down again and again
with the tokens it has so far (``final`` is false); of the lines with one ``record`` only the last counts.
"""

import os
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from deploy.errors import UsageError
from deploy.gateway.observed import Seldom

PATTERN = "usage-{day}-{replica}.jsonl"
"""Name of a file; ``day`` is written ``2030-01-31``."""

MOST_UNWRITTEN = 4 * 1024**2
"""Bytes that are kept while the disk takes none; lines that come then are lost, and the replica's log says so."""


class UsageLine(BaseModel):
    """One line. Times are UTC; ``end`` of a running request is when the line was made.

    ``complete``: the last byte of the answer was handed over, and no error cut the answer short; ``hung_up``: the
    client went away before that.
    """

    model_config = ConfigDict(frozen=True)

    record: str
    request_id: str
    key: str
    model: str
    route: str
    start: datetime
    end: datetime
    prompt_tokens: int
    completion_tokens: int
    status: int
    hung_up: bool
    complete: bool
    final: bool


def check_directory(directory: Path) -> None:
    """Make the directory, for its owner only, unless it is there.

    Raises:
        UsageError: it cannot be made or written to.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        reason = "" if os.access(directory, os.W_OK | os.X_OK) else "permission denied"
    except OSError as error:
        reason = str(error.strerror)
    if reason:
        raise UsageError(f"usage.directory {directory} cannot be written to ({reason}): choose another directory")


class UsageFiles:
    """Appends the lines of one replica process. Never raises: what cannot be written now is kept and tried again.

    Not for several threads at once. A file is opened anew for every batch, so that one which was moved away, or a
    directory that was unmounted for a while, needs no care.
    """

    def __init__(self, directory: Path, replica_id: str) -> None:
        self._directory, self._replica_id = directory, replica_id
        self._unwritten: dict[str, bytearray] = {}
        self._unsynchronised: set[str] = set()
        self._lost = 0
        self._seldom = Seldom()

    @property
    def behind(self) -> bool:
        """Whether lines wait that could not be written."""
        return bool(self._unwritten)

    def write(self, lines: list[UsageLine]) -> None:
        """Append ``lines`` behind those that wait."""
        for line in lines:
            self._add(line.start.date().isoformat(), line.model_dump_json().encode() + b"\n")
        for day, content in list(self._unwritten.items()):
            try:
                self._append(day, content)
            except OSError as error:
                self._warn(error)
            else:
                del self._unwritten[day]
                self._unsynchronised.add(day)

    def synchronise(self) -> None:
        """Have the disk take what was written, so that a crash of the machine does not lose it."""
        days, self._unsynchronised = self._unsynchronised, set()
        for day in days:
            try:
                descriptor = self._open(day)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as error:
                self._warn(error)

    def _add(self, day: str, content: bytes) -> None:
        if sum(map(len, self._unwritten.values())) + len(content) > MOST_UNWRITTEN:
            self._lost += 1
        else:
            self._unwritten.setdefault(day, bytearray()).extend(content)

    def _append(self, day: str, content: bytearray) -> None:
        """Take from ``content`` what was written, so that a line which was cut off goes on where it was."""
        descriptor = self._open(day)
        try:
            while content:
                del content[: os.write(descriptor, content)]
        finally:
            os.close(descriptor)

    def _open(self, day: str) -> int:
        path = self._directory / PATTERN.format(day=day, replica=self._replica_id)
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def _warn(self, error: OSError) -> None:
        self._seldom.warn(
            "the usage log in %s cannot be written (%s): %d bytes wait, %d lines are lost so far",
            self._directory,
            error.strerror,
            sum(map(len, self._unwritten.values())),
            self._lost,
        )
