"""Models that are built on this machine: where they lie, and how they appear there whole or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.errors import StartError, UsageError
from deploy.settings import Settings

Progress = Callable[[str], None]

_WAIT_NOTICE_S = 10
_TEMPORARY = ".tmp"


def models_directory(settings: Settings) -> Path:
    """Where built models are kept: ``cache_dir``, or the user's cache directory."""
    return _root(settings) / "models"


def compiled_directory(settings: Settings) -> Path:
    """Where torch keeps what it compiles, so that it does so once on this machine."""
    return _root(settings) / "compiled"


def _root(settings: Settings) -> Path:
    import platformdirs

    root = settings.cache_dir or platformdirs.user_cache_path("mistral-serve")
    return root.expanduser().absolute()


def build_once(
    target: Path, build: Callable[[Path], None], is_complete: Callable[[Path], bool], progress: Progress
) -> Path:
    """Make the directory ``target`` with ``build(directory)`` unless it is complete already; returns ``target``.

    ``build`` fills a temporary directory beside the target, which a rename then turns into the target. So a build that
    dies at any moment leaves nothing that passes for complete, and the next one removes what it left. Of several
    processes one builds while the others wait for it and use its work.

    Raises:
        UsageError: the cache directory cannot be written to.
        StartError: the disk is full; and whatever ``build`` raises.
    """
    if is_complete(target):
        return target
    prefix = f".{target.name}."
    with _disk_errors(target.parent), locked(target.parent / f"{prefix}lock", f"building {target.name}", progress):
        if is_complete(target):
            return target
        _remove_temporary(target.parent, prefix)
        work = Path(tempfile.mkdtemp(prefix=prefix, suffix=_TEMPORARY, dir=target.parent))
        try:
            build(work)
            _readable_by_all(work)
            if target.exists():
                target.rename(Path(tempfile.mkdtemp(prefix=prefix, suffix=_TEMPORARY, dir=target.parent)) / "damaged")
            work.rename(target)
        finally:
            _remove_temporary(target.parent, prefix)
    return target


def _remove_temporary(directory: Path, prefix: str) -> None:
    for path in directory.glob(f"{prefix}*{_TEMPORARY}"):
        shutil.rmtree(path, ignore_errors=True)


def _readable_by_all(directory: Path) -> None:
    """Temporary directories, and the weights that some libraries write, are readable by their owner alone."""
    directory.chmod(0o755)
    for file in directory.iterdir():
        file.chmod(0o644)


@contextmanager
def locked(path: Path, doing: str, progress: Progress) -> Iterator[None]:
    """Hold the lock file ``path``, waiting as long as another process does, which ``progress`` tells every 10 s.

    The operating system frees the lock when its holder dies.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    wait = 0.0
    while True:
        try:
            lock.acquire(timeout=wait)
            break
        except Timeout:
            progress(f"another process is {doing}; waiting for it")
            wait = _WAIT_NOTICE_S
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StartError(f"no space left in {directory}: free some, or choose another --cache-dir") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            reason = os.strerror(error.errno)
            raise UsageError(f"cannot write to {directory} ({reason}): choose another --cache-dir") from error
        raise
