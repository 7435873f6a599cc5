"""Prevents values that cannot work from being installed, to show only as a pod that never becomes ready."""

from typing import Any

import pytest

from tests.chart.rendering import CHART, nested, objects, one, profile, refusal

MINIMAL = {"auth.existingSecret": "keys"}
CPU = {"settings.hardware.device": "cpu", "settings.hardware.cores_per_replica": 2}
RANGE = {
    "settings.scaling.min_replicas": 1,
    "settings.scaling.max_replicas": 2,
    "settings.scaling.target_ongoing_requests": 24,
}
STEPS = {"upgrade.strategy": "NewClusterWithIncrementalUpgrade", "upgrade.gatewayClassName": "istio"}
LONG = "a-release-name-that-is-far-too-long"

REFUSALS: list[tuple[dict[str, Any], str]] = [
    (
        {"fullnameOverride": "a" * 48},
        f"the name {'a' * 48} has 48 characters and KubeRay allows 47: set fullnameOverride to a shorter one",
    ),
    (
        {"fullnameOverride": "7b"},
        "the name 7b is not a DNS label: set fullnameOverride to small letters, digits and dashes, a letter first",
    ),
    ({"image.tag": "latest"}, "image.tag is latest: name a version, so that all pods of a cluster run the same image"),
    (
        {"settings.hardware.device": "cpu"},
        "settings.hardware.device is cpu: give settings.hardware.cores_per_replica, the cores of one replica",
    ),
    (
        CPU | {"settings.vllm.tensor_parallel_size": 2},
        "settings.vllm.tensor_parallel_size is 2 but a CPU replica is not spread: leave it out",
    ),
    (
        {"auth.existingSecret": ""},
        "auth.enabled needs API keys: put the file that python -m deploy.keys writes into a Secret and name it in "
        "auth.existingSecret, or set auth.enabled to false",
    ),
    ({"auth.keysFile": "keys: []"}, "auth.existingSecret and auth.keysFile exclude each other: give one of them"),
    (
        {"hfToken.existingSecret": "hf", "hfToken.value": "hf_x"},
        "hfToken.existingSecret and hfToken.value exclude each other: give one of them",
    ),
    (
        {"tls.enabled": True},
        "tls.enabled needs a certificate: name a Secret of type kubernetes.io/tls in tls.existingSecret",
    ),
    (
        {"settings.hardware.accelerator_type": "L4"},
        "settings.hardware.accelerator_type is not known to Ray's autoscaler, which would start no worker pod: choose "
        "the GPU with worker.nodeSelector",
    ),
    (
        {"settings.engine.api_key": "x"},
        "settings.engine.api_key would stand in the RayService for all to read: use auth.existingSecret",
    ),
    (
        {"settings.engine.hf_token": "x"},
        "settings.engine.hf_token would stand in the RayService for all to read: use hfToken.existingSecret",
    ),
    (
        {"settings.quotas.redis_url": "redis://redis:6379/0?password=secret"},
        "settings.quotas.redis_url holds a password, which would stand in the RayService for all to read: take it out",
    ),
    (
        {"settings.quotas.redis_url": "redis://:secret@redis:6379/0"},
        "settings.quotas.redis_url holds a password, which would stand in the RayService for all to read: take it out",
    ),
    (
        {"settings.guard.moderation_url": "https://user:secret@guard/v1"},
        "settings.guard.moderation_url holds a password, which would stand in the RayService for all to read: take it "
        "out",
    ),
    (
        {"settings.tracing.otlp_endpoint": "http://user:secret@collector:4318"},
        "settings.tracing.otlp_endpoint holds a password, which would stand in the RayService for all to read: take it "
        "out",
    ),
    (
        {"worker.env": [{"name": "RAY_SERVE_ENABLE_HA_PROXY", "value": "0"}]},
        "worker.env sets RAY_SERVE_ENABLE_HA_PROXY, which the chart sets itself: take it out",
    ),
    (
        {"head.env": [{"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"}]},
        "head.env sets RAY_REDIS_ADDRESS: Ray's state in Redis is configured under gcsFaultTolerance alone",
    ),
    (
        {"worker.env": [{"name": "WANDB_API_KEY", "value": "x"}]},
        "worker.env gives WANDB_API_KEY as plain text: use valueFrom.secretKeyRef",
    ),
    (
        {"workerGroups": [{"name": "large", "env": [{"name": "MY_PASSWORD", "value": "x"}]}]},
        "workerGroups large.env gives MY_PASSWORD as plain text: use valueFrom.secretKeyRef",
    ),
    (
        {"head.podAnnotations": {"ray.io/ft-enabled": "true"}},
        "head.podAnnotations has ray.io/ft-enabled: Ray's state in Redis is configured under gcsFaultTolerance alone",
    ),
    ({"settings.scaling.min_replicas": 2}, "autoscaling needs both bounds: give settings.scaling.max_replicas too"),
    ({"settings.scaling.max_replicas": 2}, "autoscaling needs both bounds: give settings.scaling.min_replicas too"),
    (
        {"settings.scaling.min_replicas": 1, "settings.scaling.max_replicas": 2},
        "autoscaling needs settings.scaling.target_ongoing_requests: give about half of settings.vllm.max_num_seqs",
    ),
    (
        RANGE | {"settings.scaling.replicas": 1},
        "settings.scaling.replicas excludes min_replicas and max_replicas: give a fixed number or a range",
    ),
    (
        RANGE | {"settings.scaling.min_replicas": 3},
        "settings.scaling.min_replicas (3) cannot exceed settings.scaling.max_replicas (2)",
    ),
    (
        RANGE | {"autoscaler.enabled": False},
        "settings.scaling.max_replicas asks for autoscaling: set autoscaler.enabled to true, or give "
        "settings.scaling.replicas",
    ),
    (
        {"settings.scaling.replicas": 3, "autoscaler.maxWorkers": 2},
        "autoscaler.maxWorkers is 2 but up to 3 replicas may run: raise it",
    ),
    (
        {"workerGroups": [{"name": "large"}], "autoscaler.enabled": False},
        "workerGroups need Ray's autoscaler to choose between them: set autoscaler.enabled to true",
    ),
    (
        {"workerGroups": [{"name": "model"}]},
        "two groups of worker pods are called model: give each of workerGroups a name of its own",
    ),
    (
        {"settings.scaling.replicas": 2, "pdb.minAvailable": 2},
        "pdb.minAvailable is 2 but only 2 replicas always run, so that no node could be drained: lower it",
    ),
    ({"modelCache.type": "existingClaim"}, "modelCache.type is existingClaim: give modelCache.existingClaim"),
    ({"modelCache.type": "image"}, "modelCache.type is image: give modelCache.image"),
    ({"modelCache.type": "hostPath"}, "modelCache.type is hostPath: give modelCache.hostPath"),
    (
        {"modelCache.type": "pvc", "settings.scaling.replicas": 4},
        "modelCache.accessMode is ReadWriteOnce but up to 4 worker pods mount the claim: use ReadWriteMany, or a "
        "modelCache.type without a claim",
    ),
    (
        {"modelCache.preload.enabled": True},
        "modelCache.preload needs a claim that the worker pods mount too, but modelCache.type is emptyDir: use pvc or "
        "existingClaim",
    ),
    (
        {"drain.terminationGracePeriodSeconds": 550},
        "drain.terminationGracePeriodSeconds is 550 but waiting and draining take 550: give more, or leave it empty",
    ),
    (
        STEPS | {"upgrade.gatewayClassName": ""},
        "upgrade.strategy NewClusterWithIncrementalUpgrade needs a class for KubeRay's Gateway: give "
        "upgrade.gatewayClassName",
    ),
    (
        STEPS | {"autoscaler.enabled": False},
        "upgrade.strategy NewClusterWithIncrementalUpgrade needs Ray's autoscaler: set autoscaler.enabled to true",
    ),
    (
        STEPS | {"tls.enabled": True, "tls.existingSecret": "certificate"},
        "upgrade.strategy NewClusterWithIncrementalUpgrade speaks plain HTTP only: set tls.enabled to false",
    ),
    (
        STEPS | {"ingress.enabled": True, "ingress.host": "a.example.com"},
        "upgrade.strategy NewClusterWithIncrementalUpgrade brings a Gateway and an HTTPRoute of its own: set "
        "ingress.enabled and httpRoute.enabled to false",
    ),
    (
        STEPS | {"service.type": "LoadBalancer"},
        "upgrade.strategy NewClusterWithIncrementalUpgrade ignores what service says: leave service.type and "
        "service.annotations out",
    ),
    (
        {"ray.version": "2.51.2"},
        "rayAuth.enabled needs Ray 2.52.0 or newer but ray.version is 2.51.2: set rayAuth.enabled to false",
    ),
    (
        {"gcsFaultTolerance.enabled": True},
        "gcsFaultTolerance.enabled needs Redis: give gcsFaultTolerance.redisAddress as HOST:PORT",
    ),
    (
        {"gcsFaultTolerance.enabled": True, "gcsFaultTolerance.redisAddress": "redis://:secret@redis:6379"},
        "gcsFaultTolerance.redisAddress holds a password, which would stand in the RayService for all to read: use "
        "gcsFaultTolerance.existingSecret",
    ),
    ({"ingress.enabled": True}, "ingress.enabled needs a host name: give ingress.host"),
    ({"httpRoute.enabled": True}, "httpRoute.enabled needs a Gateway: name it in httpRoute.parentRefs"),
]

SCHEMA_REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"drain.timeoutSecond": 3}, "- at '/drain': additional properties 'timeoutSecond' not allowed"),
    ({"unknown": 1}, "- at '': additional properties 'unknown' not allowed"),
    ({"settings.vllm.foo": 1}, "- at '/settings/vllm': additional properties 'foo' not allowed"),
    ({"settings.gateway.keys": "off"}, "- at '/settings/gateway': additional properties 'keys' not allowed"),
    ({"settings.server.port": 1}, "- at '/settings': additional properties 'server' not allowed"),
    ({"settings.vllm.max_num_seqs": 0}, "- at '/settings/vllm/max_num_seqs': minimum: got 0, want 1"),
    ({"settings.hardware.device": "auto"}, "- at '/settings/hardware/device': value must be one of 'cpu', 'gpu'"),
    ({"head.shmSize": 1}, "- at '/head/shmSize': got number, want string"),
    (
        {"upgrade.strategy": "Rolling"},
        "- at '/upgrade/strategy': value must be one of 'NewCluster', 'None', 'NewClusterWithIncrementalUpgrade'",
    ),
    ({"workerGroups": [{"shmSize": "1Gi"}]}, "- at '/workerGroups/0': missing property 'name'"),
]


@pytest.mark.parametrize(("values", "sentence"), REFUSALS, ids=[sentence for _, sentence in REFUSALS])
def test_values_that_cannot_work_fail_with_one_sentence(values: dict[str, Any], sentence: str) -> None:
    assert refusal(nested(MINIMAL | values)) == sentence


@pytest.mark.parametrize(("values", "line"), SCHEMA_REFUSALS, ids=[line for _, line in SCHEMA_REFUSALS])
def test_a_value_that_the_schema_does_not_know_is_named(values: dict[str, Any], line: str) -> None:
    assert refusal(nested(MINIMAL | values)) == line


def test_a_long_release_name_fails_with_the_sentence_about_names() -> None:
    assert refusal(nested(MINIMAL), name=LONG) == (
        f"the name {LONG}-mistral-serve has 49 characters and KubeRay allows 47: set fullnameOverride to a shorter one"
    )


def test_the_longest_name_that_kuberay_takes_renders() -> None:
    values = {"modelCache.type": "pvc", "modelCache.preload.enabled": True, "fullnameOverride": "a" * 47}
    # A pod bears the name of its job as a label.
    assert len(one("Job", nested(MINIMAL | values))["metadata"]["name"]) <= 63


def test_a_second_more_than_waiting_and_draining_renders() -> None:
    assert objects(nested(MINIMAL | {"drain.terminationGracePeriodSeconds": 551}))


def test_every_refusal_of_the_chart_is_tested() -> None:
    """One `fail` in the templates can serve several sentences, so that this counts at least as many."""
    fails = sum(path.read_text().count("fail ") for path in (CHART / "templates").rglob("*.tpl"))
    assert len(REFUSALS) >= fails


def test_the_demo_profile_renders_without_anything_else() -> None:
    assert objects(profile("cpu-demo"))
