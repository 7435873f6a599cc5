"""Why starting failed, in one sentence: found in Ray Serve's status and, below it, in the engine's log."""

import re
from pathlib import Path
from typing import Any

_EXCEPTION = re.compile(r"^(?:.*?(?:ERROR|\)) .*?\] )?\s*(?:[a-z_]\w*\.)*((?:[A-Z]\w*)(?:Error|Exception|Exit))\b: (.+)$")
_WRAPPERS = ("Engine core initialization failed", "Worker failed with error", "See root cause above")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
TAIL_BYTES = 256 * 1024


def last_exception(text: str) -> str | None:
    """The message of the last Python exception in ``text`` that is not just a wrapper around another."""
    found = None
    for line in text.splitlines():
        match = _EXCEPTION.match(_ANSI.sub("", line))
        if match and not any(wrapper in match[2] for wrapper in _WRAPPERS):
            found = match[2].strip()
    return found


def cause_in_logs(directory: Path) -> str | None:
    """The last exception in any worker's log: the engine process writes there, not to its replica."""
    newest = sorted(directory.glob("worker-*.err"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in newest:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - TAIL_BYTES))
            if cause := last_exception(log.read().decode(errors="replace")):
                return cause
    return None


def cause_of(status: Any, logs: Path) -> str | None:
    """What stopped the application from starting, or ``None`` while nothing has.

    Args:
        status: Ray Serve's ``ApplicationStatusOverview``.
        logs: Ray's log directory.
    """
    messages = [deployment.message for deployment in status.deployments.values()]
    failed = [text for text in [status.message, *messages] if "Traceback" in text or "Error" in text]
    if status.status != "DEPLOY_FAILED" and not failed:
        return None
    told = last_exception("\n".join(failed))
    return told or cause_in_logs(logs) or "a replica failed to start; its log says why"
