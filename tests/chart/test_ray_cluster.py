"""Prevents a chart that renders well and serves badly: cut streams, replicas on the head, pods that are never ready."""

import json
from typing import Any

import pytest

from deploy.cluster import serve_environment
from deploy.llm import deployment_options
from deploy.loading import load
from tests.chart.rendering import (
    Object,
    arguments,
    containers,
    environment,
    group,
    one,
    profile,
    serve_config,
    service,
)


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


def test_pods_do_not_bind_to_cores_unless_asked_to() -> None:
    assert load(arguments(service())).hardware.pin_cores is False
    assert load(arguments(service(settings__hardware__pin_cores=True))).hardware.pin_cores is True


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


def scaling(found: Object) -> Any:
    """Serve's options of the deployment."""
    (options,) = serve_config(found)["applications"][0]["deployments"]
    return options


def test_with_the_autoscaler_the_bounds_are_serves_and_the_group_is_wide_open() -> None:
    found = one("RayService", profile("autoscale"))
    worker = group(found)
    assert "replicas" not in worker
    assert (worker["minReplicas"], worker["maxReplicas"]) == (0, 1000)
    assert (scaling(found)["num_replicas"], scaling(found)["autoscaling_config"]["max_replicas"]) == ("auto", 4)
    assert found["spec"]["rayClusterConfig"]["autoscalerOptions"]["version"] == "v2"


@pytest.mark.parametrize(
    "given",
    [
        {"min_replicas": 2, "max_replicas": 4, "target_ongoing_requests": 24},
        {
            "min_replicas": 1,
            "max_replicas": 9,
            "target_ongoing_requests": 1.5,
            "upscale_delay_s": 0,
            "downscale_delay_s": 0,
            "look_back_s": 1,
        },
        {"replicas": 3},
        {},
    ],
    ids=["a range", "a range with all times", "a number", "nothing"],
)
def test_serve_scales_as_the_settings_would_by_themselves(given: Object) -> None:
    name = "autoscaling_config" if "max_replicas" in given else "num_replicas"
    found = service(settings__scaling=given)
    assert scaling(found)["name"] == deployment_options(load({}))["name"]
    assert scaling(found)[name] == deployment_options(load({"scaling": given}))[name]


def test_another_bound_restarts_no_replica() -> None:
    """Ray Serve replaces every replica of an application whose code version changes."""
    from ray.serve._private.deploy_utils import get_app_code_version
    from ray.serve.schema import ServeDeploySchema

    def version(**given: Any) -> str:
        (application,) = ServeDeploySchema.model_validate(serve_config(service(**given))).applications
        return str(get_app_code_version(application))

    bounds = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 24}
    assert version(settings__scaling=bounds) == version(
        settings__scaling=bounds | {"max_replicas": 6, "target_ongoing_requests": 12, "look_back_s": 60}
    )
    assert version(settings__scaling={"replicas": 1}) == version(settings__scaling={"replicas": 5})
    assert version() != version(settings__vllm__max_num_seqs=32)


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
