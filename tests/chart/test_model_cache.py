"""Prevents a model cache that is mounted and not used, or a download job that fetches something else than is served."""

import json

import pytest

from tests.chart.rendering import (
    Object,
    arguments,
    environment,
    group,
    nested,
    objects,
    of_kind,
    one,
    profile,
    service,
)


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


def test_the_preload_job_downloads_through_the_mirror_of_the_workers() -> None:
    values = profile("pvc-cache")
    values["worker"] = {"env": [{"name": "HF_ENDPOINT", "value": "https://mirror.example.com"}]}
    (container,) = one("Job", values)["spec"]["template"]["spec"]["containers"]
    assert environment(container)["HF_ENDPOINT"] == "https://mirror.example.com"


def test_another_model_is_another_job() -> None:
    other = profile("pvc-cache")
    other["settings"]["model"] = "mistralai/Mistral-7B-v0.1"
    names = {one("Job", each)["metadata"]["name"] for each in (profile("pvc-cache"), other)}
    assert len(names) == 2


@pytest.mark.parametrize(
    "change",
    [{"worker.nodeSelector": {"gpu": "large"}}, {"hfToken.existingSecret": "other"}, {"image.pullPolicy": "Always"}],
    ids=lambda change: next(iter(change)),
)
def test_a_change_of_what_the_preload_job_runs_is_another_job(change: Object) -> None:
    """Kubernetes refuses to change a job."""
    claim = {"modelCache.type": "pvc", "modelCache.preload.enabled": True, "auth.existingSecret": "keys"}
    before, after = (one("Job", nested(each)) for each in (claim, claim | change))
    assert before["spec"]["template"] != after["spec"]["template"]
    assert before["metadata"]["name"] != after["metadata"]["name"]
