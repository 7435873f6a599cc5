"""The servers that are measured, each started fresh as a process of its own and timed until it can serve."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

from deploy.leases import free_cores, lease_cores
from tests.bench.errors import BenchError
from tests.bench.progress import say
from tests.bench.setup import Setup, as_flags
from tests.live.deployment import SERVE, START_TIMEOUT_S, STOP_TIMEOUT_S, Deployment, assert_gone, free_port

POLL_S = 0.1
TURN_TIMEOUT_S = 1200.0
Family = Callable[[], list[psutil.Process]]


@dataclass(frozen=True)
class Running:
    """A server that can serve. ``start_s``: from starting its process to that moment."""

    url: str
    start_s: float
    family: Family


def wait_for_cores(setup: Setup) -> None:
    """Wait until no deployment on this machine holds a core.

    Raises:
        BenchError: not within 20 minutes.
    """
    deadline = time.monotonic() + TURN_TIMEOUT_S
    told = False
    while free_cores(setup.cores) < len(setup.cores):
        if time.monotonic() > deadline:
            raise BenchError(f"another deployment held cores of this machine for {TURN_TIMEOUT_S:.0f} s: stop it first")
        if not told:
            say("waiting: another deployment holds cores of this machine")
            told = True
        time.sleep(1)


@contextlib.contextmanager
def product(setup: Setup, program: tuple[str, ...] = SERVE) -> Iterator[Running]:
    """``serve.py``, or ``program`` in its place, with one replica on every core.

    Raises:
        BenchError: it did not become ready.
    """
    wait_for_cores(setup)
    started = time.monotonic()
    deployment = Deployment(*setup.flags, program=program)
    try:
        try:
            deployment.wait_ready()
        except AssertionError as error:
            raise BenchError(str(error)) from None
        yield Running(deployment.url, time.monotonic() - started, deployment.family)
    finally:
        family = deployment.family()
        deployment.stop()
        assert_gone(family)


def vllm_command(setup: Setup, port: int) -> list[str]:
    """vLLM's own server with the engine arguments that the product's replica gets."""
    own = ["--model", str(setup.model), "--served-model-name", setup.name, "--host", "127.0.0.1", "--port", str(port)]
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *own, *as_flags(setup.arguments)]


def vllm_environment(setup: Setup) -> dict[str, str]:
    """All cores for the model, which by default leaves one unused, and logs as quiet as the product's."""
    return {
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, setup.cores)),
        "VLLM_LOGGING_LEVEL": setup.log_level,
        "VLLM_NO_USAGE_STATS": "1",
    }


@contextlib.contextmanager
def bare_vllm(setup: Setup) -> Iterator[Running]:
    """vLLM's own API server; holds the cores' leases meanwhile, so that no deployment starts beside it.

    Raises:
        BenchError: it did not become ready.
    """
    with holding_cores(setup), tempfile.TemporaryFile() as log:
        port = free_port()
        started = time.monotonic()
        # In a session of its own, as serve.py's server is. Linux shares the cores between sessions first
        # (sched(7), autogroup), so within the client's it would get other shares of them.
        process = psutil.Popen(
            vllm_command(setup, port),
            env=os.environ | vllm_environment(setup),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            if not _healthy_in_time(process, url):
                log.seek(0)
                raise BenchError("vLLM's server did not become ready:\n" + log.read().decode(errors="replace")[-4000:])
            yield Running(url, time.monotonic() - started, lambda: [process, *process.children(recursive=True)])
        finally:
            end(process)


@contextlib.contextmanager
def holding_cores(setup: Setup) -> Iterator[None]:
    """Lease every core while the body runs, waiting for them first."""
    wait_for_cores(setup)
    lease = lease_cores(len(setup.cores), setup.cores)
    try:
        yield
    finally:
        lease.release()


def end(process: psutil.Popen) -> None:
    """SIGTERM, then SIGKILL for what is left of the family."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
        for left in alive:
            left.kill()
        psutil.wait_procs(alive)


def _healthy_in_time(process: psutil.Popen, url: str) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
        time.sleep(POLL_S)
    return False
