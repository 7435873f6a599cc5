"""``serve.py``'s own process: starts the deployment in a child, passes signals on, and leaves nothing behind.

The child runs in a session of its own, so that Ctrl-C in a terminal reaches this process only and not Ray, HAProxy
and the engines, which would cut every running request. Whatever way the child ends, all its descendants are ended
after it; when this process is killed, the kernel sends the child SIGTERM and the child does the same.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from deploy.cluster import RunDirectory
from deploy.processes import adopt_orphans, end_descendants
from deploy.settings import Settings

CHILD = "deploy.lifecycle"
"""The child's module; the gateway's bench puts its own in its place."""

SHUTDOWN_MARGIN_S = 20.0
"""What stopping may take beyond the time that running requests get."""

KILLED = 130
"""Exit code after a second SIGINT, as a shell reports it (128 + SIGINT)."""


class _Stop:
    """Counts the signals to stop: the first SIGINT or SIGTERM is passed on, a second SIGINT ends the child now."""

    def __init__(self, child: "subprocess.Popen[bytes]") -> None:
        self.child = child
        self.signals = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1
        if self.signals == 1:
            self.child.terminate()
        elif number == signal.SIGINT:
            self.child.kill()


def supervise(settings: Settings) -> int:
    """Run the deployment until it ends or a signal stops it. Returns the exit code for ``serve.py``."""
    adopt_orphans()
    run = RunDirectory.create()
    child = subprocess.Popen(
        [sys.executable, "-m", CHILD, str(os.getpid())],
        stdin=subprocess.PIPE,
        start_new_session=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    stop = _Stop(child)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    code = 1
    try:
        assert child.stdin is not None
        chosen = settings.model_dump(mode="json", include=set(Settings.model_fields))
        message = {"settings": chosen, "run_directory": str(run.path)}
        child.stdin.write(json.dumps(message).encode())
        child.stdin.close()
        code = _wait(child, stop, settings.server.drain_timeout_s + SHUTDOWN_MARGIN_S)
    finally:
        child.kill()
        end_descendants()
        if code == 1 and run.logs.exists():
            print(f"The logs are in {run.logs.resolve()}", file=sys.stderr)
        else:
            run.remove()
    return code


def _wait(child: "subprocess.Popen[bytes]", stop: _Stop, patience_s: float) -> int:
    while stop.signals == 0:
        try:
            return _exit_code(child.wait(timeout=0.5), stop)
        except subprocess.TimeoutExpired:
            continue
    try:
        return _exit_code(child.wait(timeout=patience_s), stop)
    except subprocess.TimeoutExpired:
        return 1


def _exit_code(code: int, stop: _Stop) -> int:
    if code >= 0:
        return code
    if stop.signals > 1:
        return KILLED
    return 0 if stop.signals and code == -signal.SIGTERM else 1
