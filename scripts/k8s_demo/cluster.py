"""The cluster: ``kubectl`` and ``helm`` in one namespace of it, and a test cluster that lives as long as the demo."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START = time.monotonic()
TELL_S = 30


class DemoError(Exception):
    """A step that did not go as it must; its text says which and how."""


def say(text: str) -> None:
    """Print one line of progress with the seconds since the start."""
    print(f"[{time.monotonic() - START:6.1f} s] {text}", flush=True)


@dataclass(frozen=True)
class Cluster:
    """A namespace of the cluster that kubectl's configuration names; ``prefix`` runs a command where it is reached."""

    namespace: str
    prefix: tuple[str, ...] = ()

    def command(self, program: str, *arguments: str) -> list[str]:
        """A command of ``kubectl`` or ``helm`` in the namespace, as it is to be run here."""
        return [*self.prefix, program, f"--namespace={self.namespace}", *arguments]

    def run(self, program: str, *arguments: str, given: str | None = None) -> str:
        """What the command prints.

        Raises:
            DemoError: it failed.
        """
        done = subprocess.run(self.command(program, *arguments), input=given, capture_output=True, text=True)
        if done.returncode:
            raise DemoError(
                f"{program} {' '.join(arguments)[:200]} failed: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done.stdout

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """``run`` with kubectl."""
        return self.run("kubectl", *arguments, given=given)

    def helm(self, *arguments: str) -> str:
        """``run`` with helm."""
        return self.run("helm", *arguments)

    def get(self, *arguments: str) -> Any:
        """An object, or the items of a list of them."""
        found = json.loads(self.kubectl("get", "--output=json", *arguments))
        return found["items"] if found["kind"] == "List" else found

    def diagnose(self) -> None:
        """Print what a person would look at first."""
        for arguments in (
            ("get", "rayservices,rayclusters,pods", "--output=wide"),
            ("get", "events", "--field-selector=type=Warning"),
            ("logs", "--selector=app.kubernetes.io/name=mistral-serve", "--all-containers", "--tail=40", "--prefix"),
        ):
            done = subprocess.run(self.command("kubectl", *arguments), capture_output=True, text=True)
            print(f"--- kubectl {' '.join(arguments)}\n{done.stdout}{done.stderr}", file=sys.stderr)


def until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Look every second, and tell every half a minute; returns the seconds it took.

    Raises:
        DemoError: it took longer than ``seconds``.
    """
    started = told = time.monotonic()
    while not condition():
        now = time.monotonic()
        if now - started > seconds:
            raise DemoError(f"not within {seconds:.0f} s: {what}")
        if now - told > TELL_S:
            say(f"… waiting until {what}")
            told = now
        time.sleep(1)
    return time.monotonic() - started


@contextmanager
def test_cluster(program: Path, image: str, archive: Path) -> Iterator[tuple[str, ...]]:
    """Start the test cluster ``program`` with a node, KubeRay's operator and the image; gives the prefix to reach it.

    ``program`` knows ``up --node``, ``operator``, ``load NAME ARCHIVE``, ``exec -- COMMAND`` and ``down``.
    """
    with tempfile.TemporaryDirectory(prefix="k8s-demo-") as folder:
        base = (str(program), "--state", f"{folder}/state")
        try:
            say("starting the test cluster with a node, and KubeRay's operator")
            _driver(base, "up", "--node")
            _driver(base, "operator")
            say(f"loading {archive} ({archive.stat().st_size / 1e9:.1f} GB) on the node")
            _driver(base, "load", image, str(archive))
            yield (*base, "exec", "--")
        finally:
            say("taking the test cluster down")
            _driver(base, "down")


def _driver(base: Sequence[str], *arguments: str) -> None:
    done = subprocess.run([*base, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise DemoError(f"{' '.join(arguments)} failed: {done.stderr.strip() or done.stdout.strip()}")
