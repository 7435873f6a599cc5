"""Why starting failed, in one sentence: found in Ray Serve's status and, below it, in the engine's log."""

import re
from pathlib import Path
from typing import Any

# An exception's last line, behind what vLLM's processes put before each of theirs:
# (EngineCore pid=123) ERROR 11-23 16:40:02 [core.py:1374] RuntimeError: …
_EXCEPTION = re.compile(
    r"^(?:\(\S+ pid=\d+\) )?(?:ERROR \S+ \S+ \[\S+\] )?"
    r"(?:[a-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit): (?P<message>.+)$"
)
_WRAPPERS = (
    "See root cause above",
    "Worker failed with error",
    "Traceback (most recent call last)",
    "ray::",
    "[36mray::",
)
# pydantic says what is wrong below the exception's line: "  Value error, Unknown quantization method … [type=…".
_VALIDATION = re.compile(r"\d+ validation errors? for \w+$")
_VALIDATION_DETAIL = re.compile(r"^(?:\(\S+ pid=\d+\) )?\s+(?:Value error, )(?P<message>.+?)(?: \[type=.*)?$")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TAIL_BYTES = 256 * 1024


def last_exception(text: str) -> str | None:
    """The message of the last Python exception in ``text`` that does not merely wrap another one."""
    found = None
    for line in _COLOUR.sub("", text).splitlines():
        match = _EXCEPTION.match(line)
        if match and not any(wrapper in match["message"] for wrapper in _WRAPPERS):
            found = match["message"].strip()
        elif (detail := _VALIDATION_DETAIL.match(line)) and found and _VALIDATION.search(found):
            found = detail["message"]
    return found


def cause_in_logs(directory: Path) -> str | None:
    """The last exception in a worker's log, the newest log first: that is where the engine process writes."""
    for path in sorted(directory.glob("worker-*"), key=lambda file: file.stat().st_mtime, reverse=True):
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            if cause := last_exception(log.read().decode(errors="replace")):
                return cause
    return None


def cause_of(status: Any, logs: Path) -> str | None:
    """What stopped the application from starting, as a sentence, or ``None`` while nothing has.

    Args:
        status: Ray Serve's ``ApplicationStatusOverview``.
        logs: Ray's log directory.
    """
    messages = "\n".join([status.message, *(deployment.message for deployment in status.deployments.values())])
    if status.status != "DEPLOY_FAILED" and "Traceback" not in messages:
        return None
    cause = last_exception(messages) or cause_in_logs(logs)
    return f"the model could not be loaded: {cause}" if cause else "the model could not be loaded; its log says why"
