"""Prevents checks of the chart that let everything pass: each is shown a mistake that it must find."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.chart import crds, kuberay
from tests.chart.rendering import nested, one

Object = dict[str, Any]


@pytest.fixture
def service() -> Object:
    return copy.deepcopy(one("RayService", nested({"auth.existingSecret": "keys"})))


def cluster(service: Object) -> Any:
    return service["spec"]["rayClusterConfig"]


def head(service: Object) -> Any:
    return cluster(service)["headGroupSpec"]


def worker(service: Object) -> Any:
    return cluster(service)["workerGroupSpecs"][0]["template"]


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (
            lambda found: head(found)["rayStartParams"].update({"num-cpus": 0}),
            "$.spec.rayClusterConfig.headGroupSpec.rayStartParams['num-cpus']: 0 is not of type 'string'",
        ),
        (
            lambda found: found["spec"].update({"serveConfig": ""}),
            "$.spec: Additional properties are not allowed ('serveConfig' was unexpected)",
        ),
        (
            lambda found: worker(found)["spec"].update({"nodeSelectors": {}}),
            "$.spec.rayClusterConfig.workerGroupSpecs[0].template.spec: Additional properties are not allowed "
            "('nodeSelectors' was unexpected)",
        ),
        (
            lambda found: found["spec"].pop("rayClusterConfig"),
            "$.spec: 'rayClusterConfig' is a required property",
        ),
    ],
    ids=["an integer parameter", "a misspelt field", "a misspelt field of a pod", "a missing field"],
)
def test_the_definitions_schema_finds(spoil: Callable[[Object], Any], problem: str, service: Object) -> None:
    spoil(service)
    assert crds.problems(service) == [problem]


@pytest.mark.parametrize(
    ("spoil", "violation"),
    [
        (lambda found: found["metadata"].update(name="a" * 48), "name of 48 characters"),
        (lambda found: found["metadata"].update(name="7b"), "name 7b is not a DNS-1035 label"),
        (lambda found: found["spec"]["upgradeStrategy"].update(type="Rolling"), "upgrade strategy Rolling"),
        (lambda found: found["spec"].update(rayClusterDeletionDelaySeconds=-1), "negative deletion delay"),
        (lambda found: cluster(found).update(rayVersion="2.40.0"), "token authentication before Ray 2.52"),
        (lambda found: head(found)["rayStartParams"].update(labels="a=b"), "head has labels in rayStartParams"),
        (lambda found: head(found).update(resources={"CPU": "1"}), "head has resources twice"),
        (lambda found: worker(found)["spec"].update(containers=[]), "model has no container"),
        (lambda found: worker(found)["spec"].update(restartPolicy="Always"), "model restarts under autoscaler v2"),
        (
            lambda found: head(found)["template"]["spec"]["containers"][0]["ports"].clear(),
            "the head has no port called serve",
        ),
        (
            lambda found: head(found)["template"]["spec"]["containers"][0]["env"].append({"name": "REDIS_PASSWORD"}),
            "GCS fault tolerance in the head's environment",
        ),
        (
            lambda found: cluster(found)["workerGroupSpecs"][0].update(minReplicas=2, maxReplicas=1),
            "model has replicas from 2 to 1",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_operators_own_rules_find(spoil: Callable[[Object], Any], violation: str, service: Object) -> None:
    spoil(service)
    assert kuberay.violations(service) == [violation]


def test_an_upgrade_in_steps_needs_all_its_options(service: Object) -> None:
    service["spec"]["upgradeStrategy"] = {"type": "NewClusterWithIncrementalUpgrade"}
    cluster(service)["enableInTreeAutoscaling"] = False
    assert kuberay.violations(service) == [
        "incremental upgrade without the autoscaler",
        "incremental upgrade without a gateway class",
        "percentages beyond 0 to 100",
        "no interval between steps",
    ]


def test_without_the_autoscaler_a_group_needs_both_bounds(service: Object) -> None:
    cluster(service)["enableInTreeAutoscaling"] = False
    del cluster(service)["workerGroupSpecs"][0]["minReplicas"]
    assert kuberay.violations(service) == ["model lacks minReplicas or maxReplicas"]
