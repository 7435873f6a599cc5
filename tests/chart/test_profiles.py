"""Prevents a values file that we ship, or a feature of the chart, from rendering what Kubernetes, KubeRay, Ray Serve or
our own settings refuse."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from deploy.certificate import refuse_on_cluster
from deploy.loading import load
from tests.chart import crds, kuberay
from tests.chart.rendering import CHART, PROFILES, Object, arguments, nested, objects, of_kind, one, serve_config

OLDEST, NEWEST = "1.28", "1.34"
"""Of Kubernetes: what Chart.yaml asks for, and what the chart was run on."""

FEATURES: dict[str, Object] = {
    "defaults": {},
    "own secrets": {"auth.existingSecret": "", "auth.keysFile": "keys: []", "hfToken.value": "hf_x"},
    "existing claim": {"modelCache.type": "existingClaim", "modelCache.existingClaim": "models"},
    "host path": {"modelCache.type": "hostPath", "modelCache.hostPath": "/data/models"},
    "image volume": {"modelCache.type": "image", "modelCache.image": "models/mistral-7b:1"},
    "https": {"tls.enabled": True, "tls.existingSecret": "certificate"},
    "token of one's own": {"rayAuth.existingSecret": "ray-token"},
    "load balancer": {"service.type": "LoadBalancer", "service.annotations": {"example.com/internal": "true"}},
    "incremental upgrade": {
        "upgrade.strategy": "NewClusterWithIncrementalUpgrade",
        "upgrade.gatewayClassName": "istio",
    },
    "tensor parallelism": {"settings.vllm.tensor_parallel_size": 2, "worker.runtimeClassName": "nvidia"},
    "further groups": {
        "workerGroups": [
            {"name": "large", "nodeSelector": {"gpu": "h100"}, "resources": {"limits": {"memory": "64Gi"}}}
        ]
    },
    "everything on a pod": {
        "head.env": [{"name": "TZ", "value": "UTC"}],
        "worker.env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
        "worker.podAnnotations": {"example.com/a": "b"},
        "worker.priorityClassName": "high",
        "worker.affinity": {"nodeAffinity": {}},
        "worker.extraVolumes": [{"name": "usage", "emptyDir": {}}],
        "worker.extraVolumeMounts": [{"name": "usage", "mountPath": "/var/log/usage"}],
        "image.pullSecrets": ["registry"],
        "moderation.existingSecret": "moderation",
        "serviceAccount.annotations": {"example.com/role": "models"},
    },
    "closed network": {
        "networkPolicy.egress": [{"ports": [{"port": 443}]}],
        "networkPolicy.metricsClients": [{"namespaceSelector": {}}],
        "networkPolicy.operatorNamespaceLabels": {"kubernetes.io/metadata.name": "kuberay"},
        "networkPolicy.extraIngress": [{"ports": [{"port": 10001}]}],
    },
    "extra objects": {
        "extraObjects": [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "a"},
                "data": {"release": "{{ .Release.Name }}"},
            },
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}-b\n",
        ]
    },
}
CASES: dict[str, Object] = {
    **{path.name.removesuffix("-values.yaml"): yaml.safe_load(path.read_text()) for path in PROFILES},
    **{name: nested({"auth.existingSecret": "keys"} | dotted) for name, dotted in FEATURES.items()},
}


@pytest.fixture(params=CASES)
def values(request: pytest.FixtureRequest) -> Object:
    """The values of one profile or feature."""
    return CASES[request.param]


def test_there_is_a_profile_for_each_documented_feature() -> None:
    names = [path.name.removesuffix("-values.yaml") for path in PROFILES]
    assert names == ["autoscale", "cpu-demo", "gcs-ft", "httproute", "ingress", "one-gpu", "pvc-cache"]


def test_helm_lint_finds_nothing(values: Object) -> None:
    report = helm_python.lint(CHART, values, strict=True)
    assert [message for message in report["messages"] if message["severity"] > 1] == []
    assert report["errors"] == []


def test_custom_resources_match_their_definitions(values: Object) -> None:
    found = [item for item in objects(values) if item["kind"] in crds.kinds()]
    assert "RayService" in {item["kind"] for item in found}
    assert [problem for item in found for problem in crds.problems(item)] == []


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_built_in_kinds_match_kubernetes_own_schemas(values: Object, version: str) -> None:
    found = [item for item in objects(values) if item["kind"] not in crds.kinds()]
    for item in found:
        kubernetes_validate.validate(item, version, strict=True)
    assert {"ServiceAccount", "NetworkPolicy", "Pod"} <= {item["kind"] for item in found}


def test_pod_templates_match_kubernetes_own_schema(values: Object) -> None:
    """The CRD's copy of it is from another version and leaves out what Kubernetes requires elsewhere."""
    cluster = one("RayService", values)["spec"]["rayClusterConfig"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        pod = {"apiVersion": "v1", "kind": "Pod"} | group["template"]
        kubernetes_validate.validate(pod, NEWEST, strict=True)


def test_the_operator_takes_the_rayservice(values: Object) -> None:
    assert kuberay.violations(one("RayService", values)) == []


def test_ray_serve_takes_its_configuration(values: Object) -> None:
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(serve_config(one("RayService", values)))
    (application,) = schema.applications
    assert application.import_path == "deploy.app:build_app"
    assert (schema.http_options.host, schema.http_options.port) == ("0.0.0.0", 8000)


def test_the_application_takes_its_arguments(values: Object) -> None:
    given = arguments(one("RayService", values))
    settings = load(given)
    assert settings.model == values.get("settings", {}).get("model", "mistralai/Mistral-7B-v0.1")
    assert settings.hardware.device == given["hardware"]["device"]
    refuse_on_cluster(settings)


def test_names_labels_and_namespaces_are_those_of_the_release(values: Object) -> None:
    extra = {"a", "demo-b"}
    for item in objects(values):
        metadata = item["metadata"]
        if metadata["name"] not in extra:
            assert metadata["name"].startswith("demo-mistral-serve")
            assert metadata["labels"]["app.kubernetes.io/instance"] == "demo"
            assert "namespace" not in metadata


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.name)
def test_the_helm_binary_renders_the_same(path: Path) -> None:
    helm = shutil.which("helm")
    if helm is None:
        pytest.skip("there is no helm on PATH: only Helm's engine in Python rendered the chart")
    command = [helm, "template", "demo", str(CHART), "--namespace", "models", "--values", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    rendered = [item for item in yaml.safe_load_all(result.stdout) if item]
    assert sorted(rendered, key=_identity) == sorted(objects(yaml.safe_load(path.read_text())), key=_identity)


def _identity(item: dict[str, Any]) -> tuple[str, str]:
    return item["kind"], item["metadata"]["name"]


def test_the_chart_holds_no_certificate_key_or_token() -> None:
    pattern = re.compile(r"BEGIN [A-Z ]*PRIVATE KEY|hf_[A-Za-z]{20,}|ms-[0-9a-f]{8}-")
    texts = {path: path.read_text() for path in CHART.rglob("*") if path.is_file()}
    assert [str(path) for path, text in texts.items() if pattern.search(text)] == []


def test_extra_objects_are_templates() -> None:
    first, second = of_kind("ConfigMap", objects(CASES["extra objects"]))
    assert first["data"] == {"release": "demo"}
    assert second["metadata"]["name"] == "demo-b"
