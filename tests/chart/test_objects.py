"""Prevents a chart that renders well and serves badly: cut streams, replicas on the head, open ports, bare secrets."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.cluster import serve_environment
from deploy.loading import load
from tests.chart.rendering import (
    Object,
    arguments,
    containers,
    files,
    nested,
    objects,
    of_kind,
    one,
    profile,
)

MINIMAL = {"auth.existingSecret": "keys"}


def service(**dotted: Any) -> Object:
    """The RayService of these values; ``__`` stands for the dot."""
    return one("RayService", values(**dotted))


def values(**dotted: Any) -> Object:
    return nested(MINIMAL | {key.replace("__", "."): value for key, value in dotted.items()})


def environment(container: Object) -> dict[str, str | None]:
    """A container's variables; the value of one that comes from elsewhere is ``None``."""
    return {variable["name"]: variable.get("value") for variable in container["env"]}


def group(found: Object, name: str = "model") -> Object:
    return next(item for item in found["spec"]["rayClusterConfig"]["workerGroupSpecs"] if item["groupName"] == name)


@pytest.mark.parametrize("name", ["cpu-demo", "autoscale"])
def test_every_pod_has_the_environment_that_serve_py_sets(name: str) -> None:
    found = one("RayService", profile(name))
    wanted = serve_environment(load(arguments(found)))
    for container in containers(found).values():
        assert environment(container).items() >= wanted.items()
        assert environment(container)["RAY_SERVE_HAPROXY_BINARY_PATH"] == "/usr/local/bin/mistral-serve-haproxy"


def test_a_longer_drain_and_another_log_level_reach_the_environment_too() -> None:
    found = service(drain__timeoutSeconds=77, settings__log__engine_level="debug")
    wanted = serve_environment(load(arguments(found)))
    assert wanted["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"] == "82"
    for container in containers(found).values():
        assert environment(container).items() >= wanted.items()


def test_no_variable_is_set_twice() -> None:
    for container in containers(service()).values():
        names = [variable["name"] for variable in container["env"]]
        assert len(names) == len(set(names))


def test_the_head_runs_no_replica_and_gets_no_requests() -> None:
    spec = service()["spec"]
    assert spec["excludeHeadPodFromServeSvc"] is True
    assert spec["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in json.dumps(spec["rayClusterConfig"]["headGroupSpec"])


def test_one_replica_fills_a_worker_pod() -> None:
    gpu = group(service(settings__vllm__tensor_parallel_size=2))
    assert (gpu["rayStartParams"]["num-cpus"], gpu["rayStartParams"]["num-gpus"]) == ("2", "2")
    resources = gpu["template"]["spec"]["containers"][0]["resources"]
    assert (resources["limits"]["nvidia.com/gpu"], resources["requests"]["nvidia.com/gpu"]) == ("2", "2")
    cpu = group(service(settings__hardware__device="cpu", settings__hardware__cores_per_replica=3))
    assert cpu["rayStartParams"]["num-cpus"] == "3"
    assert "num-gpus" not in cpu["rayStartParams"]


def test_the_drain_is_wired_from_serve_to_kubernetes() -> None:
    found = service(drain__timeoutSeconds=100, drain__preStopSleepSeconds=7)
    pod = group(found)["template"]["spec"]
    (container,) = pod["containers"]
    assert arguments(found)["scaling"]["drain_timeout_s"] == 100
    assert environment(container)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == "100"
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
    assert pod["terminationGracePeriodSeconds"] == 137
    assert found["spec"]["rayClusterDeletionDelaySeconds"] == 160


def test_times_can_be_given() -> None:
    found = service(drain__terminationGracePeriodSeconds=900, upgrade__deletionDelaySeconds=0)
    assert group(found)["template"]["spec"]["terminationGracePeriodSeconds"] == 900
    assert found["spec"]["rayClusterDeletionDelaySeconds"] == 0


def test_with_the_autoscaler_the_bounds_are_serves_and_the_group_is_wide_open() -> None:
    found = service(settings__scaling__min_replicas=2, settings__scaling__max_replicas=4)
    worker = group(found)
    assert "replicas" not in worker
    assert (worker["minReplicas"], worker["maxReplicas"]) == (0, 1000)
    settings = load(arguments(found))
    assert (settings.scaling.min_replicas, settings.scaling.max_replicas) == (2, 4)
    assert found["spec"]["rayClusterConfig"]["autoscalerOptions"]["version"] == "v2"


def test_without_it_the_number_of_worker_pods_is_that_of_the_replicas() -> None:
    worker = group(service(autoscaler__enabled=False, settings__scaling__replicas=3))
    assert {worker[key] for key in ("replicas", "minReplicas", "maxReplicas")} == {3}
    assert worker["template"]["metadata"]["annotations"] == {"mistral-serve/replicas": "3"}


def test_a_profile_in_the_image_cannot_change_the_number_of_replicas_or_gpus() -> None:
    found = service(settings__profile="mistral-7b-autoscale")
    settings = load(arguments(found))
    assert settings.scaling.max_replicas is None
    assert settings.scaling.least_replicas == 1
    assert settings.vllm.tensor_parallel_size == 1
    settings = load(arguments(service(settings__profile="mistral-7b-tp2")))
    assert settings.vllm.tensor_parallel_size == 1


def test_liveness_does_not_ask_the_model_and_readiness_asks_haproxy() -> None:
    (container,) = group(service())["template"]["spec"]["containers"]
    ray = {"path": "/api/healthz", "port": 52365}
    assert container["startupProbe"]["httpGet"] == ray
    assert container["livenessProbe"]["httpGet"] == ray
    assert container["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": 8000, "scheme": "HTTP"}
    (container,) = group(service(tls__enabled=True, tls__existingSecret="c"))["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"


def pods(found: list[Object]) -> Iterator[Object]:
    """Every pod specification among the objects."""
    for item in found:
        if item["kind"] == "Pod":
            yield item["spec"]
        if item["kind"] == "Job":
            yield item["spec"]["template"]["spec"]
        if item["kind"] == "RayService":
            cluster = item["spec"]["rayClusterConfig"]
            yield from (each["template"]["spec"] for each in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]])


def test_every_pod_runs_without_rights_on_a_read_only_root() -> None:
    found = list(pods(objects(profile("pvc-cache"))))
    assert len(found) == 4
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["enableServiceLinks"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }
    options = one("RayService", profile("pvc-cache"))["spec"]["rayClusterConfig"]["autoscalerOptions"]
    assert options["securityContext"]["readOnlyRootFilesystem"] is True


def test_only_the_head_with_the_autoscaler_gets_a_token_of_kubernetes() -> None:
    assert [pod["automountServiceAccountToken"] for pod in pods(objects(values()))] == [True, False, False]
    without = objects(values(autoscaler__enabled=False))
    assert [pod["automountServiceAccountToken"] for pod in pods(without)] == [False, False, False]


def test_what_ray_and_vllm_write_lies_on_volumes() -> None:
    for pod in list(pods(objects(values())))[:2]:
        mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert {"/tmp", "/dev/shm"} <= mounts
        assert environment(pod["containers"][0])["HOME"] == "/tmp/home"


def test_the_network_policy_lets_in_clients_the_operator_and_the_pods_themselves() -> None:
    spec = one("NetworkPolicy", values())["spec"]
    own, clients, operator = spec["ingress"]
    labels = {"app.kubernetes.io/name": "mistral-serve", "app.kubernetes.io/instance": "demo"}
    assert spec["podSelector"]["matchLabels"] == labels
    assert spec["policyTypes"] == ["Ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": labels}}]}
    assert clients == {"ports": [{"port": 8000}]}
    assert operator["ports"] == [{"port": 8265}, {"port": 8000}]
    assert operator["from"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/component": "kuberay-operator"}


def test_the_labels_that_rules_select_are_those_of_the_pods() -> None:
    found = objects(values(settings__scaling__replicas=3))
    (budget,) = of_kind("PodDisruptionBudget", found)
    worker = group(of_kind("RayService", found)[0])["template"]
    selected = budget["spec"]["selector"]["matchLabels"]
    assert worker["metadata"]["labels"] == selected
    assert worker["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"] == selected
    assert budget["spec"]["minAvailable"] == 2


def test_a_single_replica_has_no_budget_that_would_block_every_drain() -> None:
    assert of_kind("PodDisruptionBudget", objects(values())) == []


SECRETS = {
    "auth.existingSecret": "s-auth",
    "hfToken.existingSecret": "s-hf",
    "tls.enabled": True,
    "tls.existingSecret": "s-tls",
    "quotasRedis.existingSecret": "s-quotas",
    "moderation.existingSecret": "s-moderation",
    "gcsFaultTolerance.enabled": True,
    "gcsFaultTolerance.redisAddress": "redis:6379",
    "gcsFaultTolerance.existingSecret": "s-gcs",
    "rayAuth.existingSecret": "s-ray",
    "image.pullSecrets": ["s-pull"],
    "test.existingSecret": "s-test",
    "ingress.enabled": True,
    "ingress.host": "a.example.com",
    "ingress.tlsSecret": "s-ingress",
}


def secret_names(node: Any) -> Iterator[str]:
    """Every Secret that an object refers to."""
    if isinstance(node, dict):
        yield from (node[key] for key in ("secretName", "secretKeyRef") if isinstance(node.get(key), str))
        if isinstance(node.get("secretKeyRef"), dict):
            yield node["secretKeyRef"]["name"]
        yield from (item["name"] for item in node.get("imagePullSecrets", ()))
        yield from (name for inner in node.values() for name in secret_names(inner))
    if isinstance(node, list):
        yield from (name for inner in node for name in secret_names(inner))


def test_every_secret_that_is_referred_to_is_a_documented_value_and_every_such_value_is_used() -> None:
    wanted = {name for key, name in SECRETS.items() if key.endswith(("existingSecret", "tlsSecret"))} | {"s-pull"}
    assert set(secret_names(objects(nested(SECRETS)))) == wanted


def test_secrets_of_the_charts_own_are_made_where_they_are_referred_to() -> None:
    found = objects(values(auth__existingSecret="", auth__keysFile="keys: []", hfToken__value="hf_private"))
    made = {item["metadata"]["name"]: item["data"] for item in of_kind("Secret", found)}
    assert set(secret_names(found)) == set(made) == {"demo-mistral-serve-keys", "demo-mistral-serve-hf-token"}
    assert base64.b64decode(made["demo-mistral-serve-keys"]["keys.yaml"]) == b"keys: []"
    assert base64.b64decode(made["demo-mistral-serve-hf-token"]["token"]) == b"hf_private"


def test_nothing_secret_stands_outside_of_a_secret() -> None:
    rendered = files(values(auth__existingSecret="", auth__keysFile="keys: [private-1]", hfToken__value="private-2"))
    outside = {name: text for name, text in rendered.items() if name != "secret.yaml"}
    encoded = [base64.b64encode(text.encode()).decode() for text in ("keys: [private-1]", "private-2")]
    for text in outside.values():
        assert "private-" not in text
        assert not any(word in text for word in encoded)


def test_mounted_secrets_are_where_the_arguments_say() -> None:
    found = one("RayService", nested(SECRETS))
    (container,) = group(found)["template"]["spec"]["containers"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    given = arguments(found)
    for path in (
        given["gateway"]["keys_file"],
        given["tls"]["certificate_file"],
        given["tls"]["key_file"],
        given["quotas"]["redis_password_file"],
        given["guard"]["moderation_key_file"],
    ):
        assert path.rpartition("/")[0] in mounts


def test_the_head_gets_no_secret_but_the_certificate_of_its_haproxy() -> None:
    spec = one("RayService", nested(SECRETS))["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    assert set(secret_names(spec)) == {"s-tls", "s-pull"}


def test_keys_are_off_only_when_the_values_say_so() -> None:
    assert arguments(service())["gateway"] == {"keys": "on", "keys_file": "/etc/mistral-serve/keys/keys.yaml"}
    assert arguments(service(auth__enabled=False))["gateway"] == {"keys": "off"}


def test_two_releases_in_one_namespace_share_no_name_and_select_no_pod_of_each_other() -> None:
    shared = values(modelCache__type="pvc", modelCache__preload__enabled=True, ingress__enabled=True, ingress__host="h")
    first, second = objects(shared, name="one"), objects(shared, name="two")
    names = [{(item["kind"], item["metadata"]["name"]) for item in found} for found in (first, second)]
    assert names[0] & names[1] == set()
    assert '"app.kubernetes.io/instance": "two"' not in json.dumps(first)
    assert "one-mistral-serve" not in json.dumps(second)


@pytest.mark.parametrize(
    ("given", "volume"),
    [
        ({"modelCache__type": "emptyDir"}, {"emptyDir": {"sizeLimit": "50Gi"}}),
        ({"modelCache__type": "pvc"}, {"persistentVolumeClaim": {"claimName": "demo-mistral-serve-models"}}),
        (
            {"modelCache__type": "existingClaim", "modelCache__existingClaim": "mine"},
            {"persistentVolumeClaim": {"claimName": "mine"}},
        ),
        (
            {"modelCache__type": "image", "modelCache__image": "models:1"},
            {"image": {"reference": "models:1", "pullPolicy": "IfNotPresent"}},
        ),
        (
            {"modelCache__type": "hostPath", "modelCache__hostPath": "/data"},
            {"hostPath": {"path": "/data", "type": "Directory"}},
        ),
    ],
    ids=lambda value: value.get("modelCache__type", "") if isinstance(value, dict) else "",
)
def test_a_model_cache_is_mounted_and_used(given: dict[str, str], volume: Object) -> None:
    found = service(**given)
    pod = group(found)["template"]["spec"]
    assert {"name": "models"} | volume in pod["volumes"]
    assert environment(pod["containers"][0])["HF_HOME"] == "/models/huggingface"
    assert arguments(found)["cache_dir"] == "/models/mistral-serve"


def test_without_a_model_cache_the_image_decides_where_models_are() -> None:
    found = service(modelCache__type="none")
    assert "cache_dir" not in arguments(found)
    assert "models" not in {volume["name"] for volume in group(found)["template"]["spec"]["volumes"]}


def test_the_preload_job_gets_the_settings_of_the_replicas_and_their_claim() -> None:
    found = objects(profile("pvc-cache"))
    (job,), (ray,) = of_kind("Job", found), of_kind("RayService", found)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "deploy.download"]
    assert json.loads(container["args"][0]) == arguments(ray)
    assert environment(container).keys() == {"HOME", "HF_HOME", "HF_TOKEN"}
    assert {"name": "models", "persistentVolumeClaim": {"claimName": "demo-mistral-serve-models"}} in job["spec"][
        "template"
    ]["spec"]["volumes"]


def test_another_model_is_another_job() -> None:
    other = profile("pvc-cache")
    other["settings"]["model"] = "mistralai/Mistral-7B-v0.1"
    names = {one("Job", each)["metadata"]["name"] for each in (profile("pvc-cache"), other)}
    assert len(names) == 2


def test_an_image_is_named_by_version_and_device_tag_or_digest() -> None:
    def image(**given: Any) -> str:
        return str(containers(service(**given))["model"]["image"])

    digest = "sha256:" + "0" * 64
    assert image() == "mistral-serve:0.1.0-gpu"
    assert image(settings__hardware__device="cpu", settings__hardware__cores_per_replica=1) == "mistral-serve:0.1.0-cpu"
    assert image(image__tag="1.2") == "mistral-serve:1.2"
    assert image(image__repository="r.example.com/m", image__digest=digest) == f"r.example.com/m@{digest}"


def test_a_further_group_differs_only_in_what_it_says() -> None:
    found = service(workerGroups=[{"name": "large", "shmSize": "9Gi"}])
    first, second = group(found), group(found, "large")
    shm = next(volume for volume in second["template"]["spec"]["volumes"] if volume["name"] == "shm")
    assert shm["emptyDir"]["sizeLimit"] == "9Gi"
    shm["emptyDir"]["sizeLimit"] = "2Gi"
    assert second == first | {"groupName": "large"}


def test_routes_lead_to_the_service_that_kuberay_makes() -> None:
    (rule,) = one("HTTPRoute", profile("httproute"))["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": "demo-mistral-serve-serve-svc", "port": 8000}]
    assert rule["timeouts"] == {"request": "600s"}
    (rule,) = one("Ingress", profile("ingress"))["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": "demo-mistral-serve-serve-svc", "port": {"number": 8000}}


def test_the_operators_own_gateway_is_tested_during_upgrades_in_steps() -> None:
    steps = {"upgrade__strategy": "NewClusterWithIncrementalUpgrade", "upgrade__gatewayClassName": "istio"}
    (container,) = one("Pod", values(**steps))["spec"]["containers"]
    assert environment(container)["BASE_URL"] == "http://demo-mistral-serve-gateway"
    (container,) = one("Pod", values())["spec"]["containers"]
    assert environment(container)["BASE_URL"] == "http://demo-mistral-serve-serve-svc:8000"


def test_the_notes_tell_the_next_three_commands_and_warn() -> None:
    def notes(**given: Any) -> str:
        return files(values(**given))["NOTES.txt"]

    commands = [line.strip() for line in notes().splitlines() if line.startswith("   ")]
    assert commands == [
        "kubectl -n models wait rayservice/demo-mistral-serve --for=condition=Ready --timeout=30m",
        "helm -n models test demo",
        "kubectl -n models port-forward service/demo-mistral-serve-serve-svc 8000:8000",
        'then: curl http://localhost:8000/v1/models -H "Authorization: Bearer $KEY"',
    ]
    assert "WARNING" not in notes()
    assert "auth.enabled is false" in notes(auth__enabled=False)
    assert "upgrade.strategy is None" in notes(upgrade__strategy="None")
    assert "networkPolicy.enabled is false" in notes(networkPolicy__enabled=False)
    assert "rayAuth.enabled is false" in notes(rayAuth__enabled=False)
