"""Runs ``serve.py`` as an operator does: a process with flags, a READY line, signals, an exit code."""

import os
import queue
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import psutil

ROOT = Path(__file__).resolve().parents[2]
SERVE = (str(ROOT / "serve.py"),)
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 120.0


HANDED_OUT: set[int] = set()
SHARES = 4
"""Of the ports, for as many processes of pytest at once (pytest-xdist names them gw0, gw1, …)."""


def free_port() -> int:
    """A free port below the ephemeral range: one within could be taken by any connection before it is listened on.

    Nobody else gets it: not later in this process, nor in another one of pytest.
    """
    share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SHARES
    while True:
        port = random.randrange(30000 + share, 32768, SHARES)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in HANDED_OUT:
                HANDED_OUT.add(port)
                return port


class Deployment:
    """A running ``serve.py``, or ``program`` in its place. ``stdout`` and ``stderr`` collect lines as they come."""

    running: ClassVar[set["Deployment"]] = set()
    """Those that have not been waited for: where a test fails, they are described."""

    def __init__(
        self,
        *flags: str,
        port: int | None = None,
        environment: dict[str, str] | None = None,
        program: tuple[str, ...] = SERVE,
    ) -> None:
        self.port = port or free_port()
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._ready: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, *program, "--port", str(self.port), *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | (environment or {}),
        )
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.stdout), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self.stderr), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self.running.add(self)

    def _read(self, stream: Iterator[str], lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))
            if lines is self.stdout and line.startswith("READY "):
                self._ready.put(line.strip())
        if lines is self.stdout:
            self._ready.put(None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> str:
        """The READY line; fails with what serve.py wrote when it ends or takes too long instead."""
        try:
            line = self._ready.get(timeout=timeout_s)
        except queue.Empty:
            line = None
        assert line is not None, "serve.py did not become ready:\n" + "\n".join(self.stderr[-40:])
        return line

    def family(self) -> list[psutil.Process]:
        """This process and everything it started."""
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def named(self, pattern: str) -> list[psutil.Process]:
        """Descendants whose command line matches ``pattern``."""
        found = []
        for process in self.family():
            try:
                if re.search(pattern, " ".join(process.cmdline())):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def engines(self) -> list[psutil.Process]:
        """The engines, as children of their replicas' fork servers.

        Their title is no sign of them: setproctitle finds no place for one where the first variable of the environment
        has been set anew, and in which order Ray hands the variables to a replica is chance.
        """
        replicas = {process.pid for process in self.named(r"^ray::ServeReplica")}
        fork_servers = {
            process.pid for process in self.named(r"multiprocessing\.forkserver") if _parent(process) in replicas
        }
        return [process for process in self.family() if _parent(process) in fork_servers]

    def serving_ports(self) -> set[int]:
        """Ports on which replicas' HTTP servers have answered at least one request of HAProxy's."""
        ports = set()
        for process in self.named(r"^ray::ServeReplica"):
            # A command that a replica is about to run bears the replica's name for a moment.
            with suppress(psutil.NoSuchProcess):
                for connection in process.net_connections(kind="tcp"):
                    if connection.status == psutil.CONN_ESTABLISHED and 20000 <= connection.laddr.port < 30000:
                        ports.add(connection.laddr.port)
        return ports

    def describe(self) -> str:
        """The processes that run now and the end of what serve.py wrote, for whoever reads why a test failed."""
        lines = []
        for process in self.family():
            with suppress(psutil.Error):
                command = " ".join(process.cmdline())[:100]
                lines.append(f"{process.pid} of {process.ppid()} {process.status()} {command}")
        return "\n".join([*lines, *self.stderr[-60:]])

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        code = self.process.wait(timeout=timeout_s)
        self.running.discard(self)
        for reader in self._readers:
            reader.join(timeout=10)
        return code

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait()


def _parent(process: psutil.Process) -> int | None:
    """Process id of the parent; ``None`` where the process has ended."""
    with suppress(psutil.NoSuchProcess):
        return process.ppid()
    return None


@contextmanager
def serving(*flags: str, environment: dict[str, str] | None = None) -> Iterator[Deployment]:
    """A deployment that is ready, stopped and checked for remains afterwards."""
    deployment = Deployment(*flags, environment=environment)
    try:
        deployment.wait_ready()
        yield deployment
    finally:
        family = deployment.family()
        deployment.stop()
        assert_gone(family)


def assert_gone(family: list[psutil.Process], timeout_s: float = 15.0) -> None:
    """Every process of a deployment has ended."""
    _, alive = psutil.wait_procs(family, timeout=timeout_s)
    assert alive == [], f"left behind: {[(p.pid, ' '.join(p.cmdline())[:120]) for p in alive]}"


def port_is_free(port: int) -> bool:
    """Nobody listens on the port of the loopback address."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def eventually(condition: object, timeout_s: float, what: str) -> None:
    """Wait until the callable ``condition`` is true; only a look that begins after ``timeout_s`` seconds fails it.

    One that was held up itself proves nothing, so the next one decides.
    """
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while True:
        looked = time.monotonic()
        if condition():
            return
        assert looked < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.2)


def has_ended(process: int) -> bool:
    """Whether the process with this id is gone or only waits to be reaped."""
    try:
        return bool(psutil.Process(process).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
