"""Calls to the model hub: bounded in time, and their errors told as one sentence."""

import errno
import threading
from collections.abc import Callable
from typing import TypeVar

from deploy.errors import ServeError, StartError, UsageError

_T = TypeVar("_T")


class Unreachable(StartError):
    """The hub did not answer, or not in time: what is on this machine may still do."""


def bounded(call: Callable[[], _T], seconds: float) -> _T:
    """Call in a thread that is given up after ``seconds``; name resolution and the library's retries know no limit.

    Raises:
        TimeoutError: the call was given up; and whatever ``call`` raises.
    """
    results: list[_T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return results[0]


def explained(error: Exception, model: str, revision: str | None) -> ServeError:
    """The sentence that tells a person what to do about an error of huggingface_hub's."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, ServeError):
        return error
    status = _status(error)
    if isinstance(error, GatedRepoError):
        return UsageError(
            f"model {model!r} is gated: accept the conditions on its hub page, and set HF_TOKEN to a token of yours"
        )
    if isinstance(error, RevisionNotFoundError):
        return UsageError(f"model {model!r} has no revision {revision!r}: give one of its branches, tags or commits")
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return UsageError(
            f"the model hub has no model {model!r}, or it is private: check the spelling, set HF_TOKEN, "
            "or give a local directory with --model /path"
        )
    if status in (401, 403):
        return UsageError(f"the model hub refuses {model!r} (HTTP {status}): set HF_TOKEN to a token that may read it")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return StartError(f"no space left to download {model!r}: free some, or set HF_HOME to a place on another disk")
    return Unreachable(
        f"cannot reach the model hub to download {model!r} ({reason(error)}): connect, set HF_ENDPOINT to a mirror, "
        "or give a local directory with --model /path"
    )


def reason(error: BaseException) -> str:
    """What lies at the bottom of an error, in a few words: the HTTP status, or the first cause."""
    status = _status(error)
    if status is not None:
        return f"HTTP {status}"
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error) or type(error).__name__).splitlines()[0]


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error, or one that it was raised from, carries."""
    response = getattr(error, "response", None)
    if response is None:
        return _status(error.__cause__) if error.__cause__ else None
    return int(response.status_code)
