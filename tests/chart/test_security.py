"""Prevents pods with rights, open ports, and secrets in plain sight."""

import base64
import json
from collections.abc import Iterator
from typing import Any

from deploy.proxy import BIND_VARIABLE
from tests.chart.rendering import (
    Object,
    arguments,
    containers,
    environment,
    files,
    group,
    nested,
    objects,
    of_kind,
    one,
    profile,
    service,
    values,
)


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


def test_the_head_names_no_account_that_goes_with_the_release() -> None:
    """KubeRay makes the job that cleans Redis up after an uninstall of the head's pod."""
    accounts = [pod.get("serviceAccountName") for pod in pods([service()])]
    assert accounts == [None, "demo-mistral-serve"]
    given = [
        pod["serviceAccountName"] for pod in pods([service(serviceAccount__create=False, serviceAccount__name="x")])
    ]
    assert given == ["x", "x"]


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
        "/etc/mistral-serve/tls/server.pem",
        given["quotas"]["redis_password_file"],
        given["guard"]["moderation_key_file"],
    ):
        assert path.rpartition("/")[0] in mounts


def test_haproxy_ends_tls_on_every_pod_with_the_mounted_certificate() -> None:
    found = service(tls__enabled=True, tls__existingSecret="certificate")
    for container in containers(found).values():
        bind = environment(container)[BIND_VARIABLE]
        assert bind == ("0.0.0.0:8000 ssl crt '/etc/mistral-serve/tls/server.pem' ssl-min-ver TLSv1.2 alpn h2,http/1.1")
    (volume,) = [item for item in group(found)["template"]["spec"]["volumes"] if item["name"] == "tls"]
    assert volume["secret"]["items"] == [
        {"key": "tls.crt", "path": "server.pem"},
        {"key": "tls.key", "path": "server.pem.key"},
    ]
    assert BIND_VARIABLE not in environment(containers(service())["model"])


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
