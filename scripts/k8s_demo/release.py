"""One release of the chart with the CPU profile: installed, asked, upgraded, disturbed, removed."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.k8s_demo.cluster import Cluster, DemoError, say, until

ROOT = Path(__file__).resolve().parents[2]
CHART, VALUES = ROOT / "helm", ROOT / "helm" / "ci" / "cpu-demo-values.yaml"
CLIENT_SOURCE = Path(__file__).with_name("client.py").read_text(encoding="utf-8")
RELEASE, NAME = "demo", "demo-mistral-serve"
URL = f"http://{NAME}-serve-svc:8000"
REPLICAS = 2
"""Two, so that one serves while the other is replaced."""
READY_S, REPLACED_S = 360, 600
"""Bounds on how long an install and a replacement under load may take, on two shared cores."""
ROUTED_S = 30
STREAMS, OTHER_MAX_MODEL_LEN = 2, 4096
QUESTION = json.dumps(
    {
        "model": "demo",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 20,
        "temperature": 0,
    }
)
STREAM = json.dumps(json.loads(QUESTION) | {"stream": True})
# Kinds that a release, KubeRay or a replica could leave, and what Kubernetes itself puts into each namespace.
KINDS = (
    "rayservices,rayclusters,rayjobs,pods,services,secrets,configmaps,serviceaccounts,jobs,persistentvolumeclaims,"
    "roles,rolebindings,networkpolicies,poddisruptionbudgets,ingresses"
)
OF_KUBERNETES = {"configmap/kube-root-ca.crt", "serviceaccount/default"}


class Release:
    """The release and the client pod beside it."""

    def __init__(self, cluster: Cluster, image: str) -> None:
        self.cluster, self.image, self.key = cluster, image, ""
        repository, _, tag = image.rpartition(":")
        self._values = [
            f"--values={VALUES}",
            f"--set=image.repository={repository},image.tag={tag},settings.scaling.replicas={REPLICAS}",
        ]

    def prepare(self) -> None:
        """Make the namespace, a key with its Secrets, and the client pod."""
        self.cluster.kubectl("create", "namespace", self.cluster.namespace)
        with tempfile.TemporaryDirectory() as folder:
            file = f"{folder}/keys.yaml"
            new = [sys.executable, "-m", "deploy.keys", "new", "--name", "k8s-demo", "--file", file]
            self.key = subprocess.run(new, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
            secret = ("create", "secret", "generic")
            self.cluster.kubectl(*secret, "mistral-serve-keys", f"--from-file={file}")
            self.cluster.kubectl(*secret, "mistral-serve-test", f"--from-literal=key={self.key}")
        run = ("run", "client", f"--image={self.image}", "--image-pull-policy=IfNotPresent", "--restart=Never")
        self.cluster.kubectl(*run, "--command", "--", "sleep", "infinity")
        self.cluster.kubectl("wait", "pod/client", "--for=condition=Ready", "--timeout=120s")

    def install(self) -> None:
        """Install, and wait until every replica serves."""
        started = time.monotonic()
        self.cluster.helm("install", RELEASE, str(CHART), *self._values)
        until(self.serves, READY_S, "the release is Ready")
        say(f"Ready {time.monotonic() - started:.0f} s after helm install (at most {READY_S} s)")
        until(lambda: len(self.ready_workers()) == REPLICAS, READY_S, "every worker pod is Ready")
        # A node learns a moment after a pod is Ready that the Service leads to it.
        until(lambda: self.ask("/v1/models")[0] == 200, ROUTED_S, "the Service leads to a replica")
        say(f"both replicas serve {time.monotonic() - started:.0f} s after helm install")

    def ask(self, path: str, *, key: str | None = None, body: str | None = None) -> tuple[int, Any]:
        """Send one request from the client pod through the Service; gives the status (0: none) and the parsed body."""
        arguments = ["request", URL + path, self.key if key is None else key, *([body] if body else [])]
        answer = json.loads(self.cluster.kubectl("exec", "client", "--", "python", "-c", CLIENT_SOURCE, *arguments))
        return answer["status"], json.loads(answer["body"])

    def check_answers(self) -> None:
        """The capital of France with a key, and 401 without one."""
        status, body = self.ask("/v1/chat/completions", body=QUESTION)
        answer = body["choices"][0]["message"]["content"] if status == 200 else body
        say(f"with a key: {status}, {answer!r}")
        if "Paris" not in str(answer):
            raise DemoError("the answer does not name Paris")
        status, body = self.ask("/v1/chat/completions", key="", body=QUESTION)
        say(f"without a key: {status}, {body['error']['message']!r}")
        if status != 401:
            raise DemoError("a request without a key is not refused with 401")

    def test(self) -> None:
        """Run the chart's own tests."""
        self.cluster.helm("test", RELEASE, "--timeout=3m")
        say("helm test passed")

    def upgrade_in_place(self) -> None:
        """Change a setting under streaming load: the same Ray cluster, and no stream fails."""
        before = self.ray_cluster()
        with self.load("the upgrade", may_fail=False):
            changed = f"--set=settings.vllm.max_model_len={OTHER_MAX_MODEL_LEN}"
            self.cluster.helm("upgrade", RELEASE, str(CHART), *self._values, changed)
            took = until(self.is_upgraded, REPLACED_S, "every replica serves the changed settings")
            say(f"every replica serves the changed settings {took:.0f} s after helm upgrade")
        if self.ray_cluster() != before:
            raise DemoError("the upgrade made a new Ray cluster")

    def is_upgraded(self) -> bool:
        """Whether Serve runs steadily, and as many answers in a row as hit every replica show the changed setting."""
        if self._application()["status"] != "RUNNING" or len(self.ready_workers()) != REPLICAS:
            return False
        answers = (self.ask("/v1/models") for _ in range(4 * REPLICAS))
        return all(
            status == 200 and body["data"][0]["max_model_len"] == OTHER_MAX_MODEL_LEN for status, body in answers
        )

    def kill_a_worker(self) -> None:
        """Kill a worker pod without notice: what ran on it is lost, and a new one takes its place."""
        with self.load("the kill", may_fail=True):
            self._replace_a_worker("--grace-period=0", "--force")
        self.check_answers()

    def drain_a_worker(self) -> None:
        """Delete a worker pod as a node's drain does: it finishes its streams, and none fails."""
        with self.load("the drain", may_fail=False):
            self._replace_a_worker()

    def _replace_a_worker(self, *how: str) -> None:
        pod = sorted(self.ready_workers())[0]
        self.cluster.kubectl("delete", "pod", pod, "--wait=false", *how)
        took = until(lambda: pod not in self._pods("worker"), REPLACED_S, f"{pod} is gone")
        say(f"worker pod gone after {took:.0f} s")
        more = until(lambda: len(self.ready_workers()) == REPLICAS, REPLACED_S, "a new worker pod is Ready")
        say(f"a new worker pod serves after {took + more:.0f} s")

    def uninstall(self) -> None:
        """Uninstall; nothing of the release may be left."""
        self.cluster.helm("uninstall", RELEASE, "--wait", "--timeout=3m")
        self.cluster.kubectl("delete", "pod", "client", "--grace-period=1")
        self.cluster.kubectl("delete", "secret", "mistral-serve-keys", "mistral-serve-test")
        took = until(lambda: not self.objects(), 180, "nothing of the release is left")
        say(f"nothing is left in the namespace {took:.0f} s after helm uninstall")

    def remove(self) -> None:
        """Delete the namespace with whatever is in it."""
        self.cluster.kubectl("delete", "namespace", self.cluster.namespace, "--ignore-not-found", "--timeout=180s")

    @contextmanager
    def load(self, during: str, *, may_fail: bool) -> Iterator[None]:
        """Streams from the client pod meanwhile; afterwards says what became of them.

        Raises:
            DemoError: one failed although none may, or there were none.
        """
        arguments = ("load", URL + "/v1/chat/completions", self.key, str(STREAMS), STREAM)
        command = self.cluster.command(
            "kubectl", "exec", "-i", "client", "--", "python", "-c", CLIENT_SOURCE, *arguments
        )
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
            try:
                yield
                output, _ = running.communicate(timeout=180)
            finally:
                running.kill()
        found = json.loads(output)
        why = f" ({', '.join(found['reasons'])})" if found["failed"] else ""
        say(f"streams during {during}: {found['streams']}, failed: {found['failed']}{why}")
        if found["streams"] == 0 or (found["failed"] and not may_fail):
            raise DemoError(f"no stream may fail during {during}")

    def serves(self) -> bool:
        """Whether KubeRay calls the service ready."""
        conditions = self.cluster.get("rayservice", NAME).get("status", {}).get("conditions", [])
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

    def ray_cluster(self) -> str:
        """The name of the Ray cluster that serves."""
        return str(self.cluster.get("rayservice", NAME)["status"]["activeServiceStatus"]["rayClusterName"])

    def ready_workers(self) -> set[str]:
        """The names of the worker pods that are ready and not on their way out."""
        return {
            pod["metadata"]["name"]
            for pod in self._pods("worker").values()
            if "deletionTimestamp" not in pod["metadata"]
            and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
        }

    def objects(self) -> set[str]:
        """What is in the namespace, besides what Kubernetes puts there."""
        return set(self.cluster.kubectl("get", KINDS, "--output=name").split()) - OF_KUBERNETES

    def _pods(self, node_type: str) -> dict[str, Any]:
        found = self.cluster.get("pods", f"--selector=ray.io/cluster={self.ray_cluster()},ray.io/node-type={node_type}")
        return {pod["metadata"]["name"]: pod for pod in found}

    def _application(self) -> Any:
        status = self.cluster.get("rayservice", NAME)["status"]["activeServiceStatus"]
        return status["applicationStatuses"]["mistral-serve"]
