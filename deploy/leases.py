"""Cores and ports that deployments on one machine must not share, leased with file locks.

vLLM binds its threads to whatever cores its process may use and Ray's CPU count reserves no particular core, so two
replicas would compute on the same ones. Ray Serve gives every cluster the same range of replica ports, so one
deployment's HAProxy could reach another's replica. The kernel drops a file lock when its process ends, however it
ends: no lease outlives its holder.
"""

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from deploy.errors import StartError

PORT_BLOCK = 100
PORT_BLOCKS = range(20000, 30000, PORT_BLOCK)
"""First ports of the blocks that replicas listen in; below the ephemeral range, above Ray's worker ports."""

PROXY_PORTS = 3
"""Ports at the end of a block for HAProxy: one of the ephemeral range could be taken by any connection meanwhile."""


SHARED_VARIABLE = "_MISTRAL_SERVE_SHARED"
"""Environment variable: ``user_directory()`` of a deployment, whose replicas have a ``TMPDIR`` of their own."""


def user_directory() -> Path:
    """This user's directory for what deployments on this machine share. Its name is short: sockets lie below it."""
    default = Path(tempfile.gettempdir()) / f"ms-{os.getuid()}"
    directory = Path(os.environ.get(SHARED_VARIABLE, default))
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


@dataclass(frozen=True)
class Lease:
    """Numbers (of cores, of ports) that no other leaseholder has, until this process ends or releases them."""

    ids: tuple[int, ...]
    locks: tuple[FileLock, ...]

    def release(self) -> None:
        """Give them back."""
        for lock in self.locks:
            lock.release()


def lease(kind: str, count: int, among: Iterable[int], directory: Path | None = None) -> Lease:
    """Lease up to ``count`` numbers of ``among``, the first free ones; fewer when fewer are free."""
    folder = (directory or user_directory()) / kind
    folder.mkdir(mode=0o700, exist_ok=True)
    held: dict[int, FileLock] = {}
    for number in among:
        if len(held) == count:
            break
        lock = FileLock(folder / f"{number}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        held[number] = lock
    return Lease(tuple(held), tuple(held.values()))


def lease_cores(count: int, usable: Sequence[int], directory: Path | None = None) -> Lease:
    """Lease ``count`` of the ``usable`` cores.

    Raises:
        StartError: fewer are free.
    """
    result = lease("cores", count, usable, directory)
    if len(result.ids) < count:
        result.release()
        raise StartError(
            f"a replica needs {count} cores of its own, but {len(result.ids)} of {len(usable)} are free: "
            "stop another deployment on this machine, or lower hardware.cores_per_replica"
        )
    return result


def free_cores(usable: Sequence[int], directory: Path | None = None) -> int:
    """How many of the ``usable`` cores nobody has leased."""
    result = lease("cores", len(usable), usable, directory)
    result.release()
    return len(result.ids)


def lease_ports(directory: Path | None = None) -> tuple[range, range, Lease]:
    """Lease a block of ports for one deployment: those of its replicas, and ``PROXY_PORTS`` for its HAProxy.

    Raises:
        StartError: every block is taken.
    """
    result = lease("ports", 1, PORT_BLOCKS, directory)
    if not result.ids:
        raise StartError(f"{len(PORT_BLOCKS)} deployments run on this machine already: stop one of them")
    block = range(result.ids[0], result.ids[0] + PORT_BLOCK)
    return block[:-PROXY_PORTS], block[-PROXY_PORTS:], result
