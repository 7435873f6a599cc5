"""A namespace of the cluster that KUBECONFIG names, and the real ``helm`` and ``kubectl`` in it."""

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHART = Path(__file__).resolve().parents[2] / "helm"
WAIT = "--timeout=60s"
# What may hold something of a release; events and the tokens of Kubernetes itself aside.
KINDS = (
    "rayservices,rayclusters,pods,services,serviceaccounts,secrets,configmaps,jobs,persistentvolumeclaims,roles,"
    "rolebindings,networkpolicies,poddisruptionbudgets,ingresses,httproutes,podmonitors,prometheusrules"
)
OF_KUBERNETES = {"serviceaccount/default", "configmap/kube-root-ca.crt"}


@dataclass(frozen=True)
class Namespace:
    """One namespace."""

    name: str

    def helm(self, *arguments: str | Path) -> str:
        """What ``helm`` prints.

        Raises:
            AssertionError: it failed; with what it wrote to stderr.
        """
        return _run("helm", f"--namespace={self.name}", *arguments)

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What ``kubectl`` prints, with ``given`` on its standard input; raises as ``helm`` does."""
        return _run("kubectl", f"--namespace={self.name}", *arguments, given=given)

    def get(self, *arguments: str) -> Any:
        """An object, or the items of a list of them, as the API server holds it."""
        found = json.loads(self.kubectl("get", "--output=json", *arguments))
        return found["items"] if found["kind"] == "List" else found

    def first_cluster(self, ray_service: str) -> str:
        """The name of the RayCluster that KubeRay makes for a new RayService; waits until it is there."""
        pending = "{.status.pendingServiceStatus.rayClusterName}"
        self.kubectl("wait", f"rayservice/{ray_service}", "--for=create", WAIT)
        self.kubectl("wait", f"rayservice/{ray_service}", f"--for=jsonpath={pending}", WAIT)
        name = self.kubectl("get", "rayservice", ray_service, f"--output=jsonpath={pending}")
        self.kubectl("wait", f"raycluster/{name}", "--for=create", WAIT)
        return name

    def ray_clusters(self, ray_service: str) -> set[str]:
        """The RayClusters that KubeRay has made for a RayService."""
        found = self.kubectl("get", "rayclusters", f"--selector=ray.io/originated-from-cr-name={ray_service}", "-oname")
        return set(found.split())

    def objects(self) -> set[str]:
        """Every object as ``kind/name``, without what Kubernetes puts into each namespace."""
        names = self.kubectl("get", KINDS, "--output=name").split()
        return {name.replace(".ray.io", "") for name in names} - OF_KUBERNETES


def _run(*command: str | Path, given: str | None = None) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stderr}"
    return done.stdout


def until(condition: Callable[[], bool], what: str) -> None:
    """Look twice a second for what no ``kubectl wait`` can express, for at most a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"not within 60 s: {what}"
        time.sleep(0.5)


def skip_without_cluster() -> None:
    """Skip when there is none to be had; a cluster that is named and does not answer fails the tests instead."""
    if "KUBECONFIG" not in os.environ:
        pytest.skip("NOT RUN ON KUBERNETES: KUBECONFIG names no cluster with KubeRay's operator")
    for program in ("helm", "kubectl"):
        if shutil.which(program) is None:
            pytest.skip(f"NOT RUN ON KUBERNETES: {program} is not on PATH")
    _run("kubectl", "get", "--raw", "/apis/ray.io/v1")


@contextmanager
def namespace() -> Iterator[Namespace]:
    """A new namespace, deleted afterwards with all that is in it."""
    new = Namespace(f"mistral-serve-test-{secrets.token_hex(3)}")
    _run("kubectl", "create", "namespace", new.name)
    try:
        yield new
    finally:
        _run("kubectl", "delete", "namespace", new.name, "--wait=false")
