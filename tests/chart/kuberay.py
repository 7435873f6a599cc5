"""KubeRay 1.6's rules that live in its Go code, not in the CRD's schema.

Sources: ``ray-operator/controllers/ray/utils/validation.go`` (what the operator refuses), ``utils/util.go``
(``GenerateHashWithoutReplicasAndWorkersToDelete``) and ``rayservice_controller.go`` (``shouldPrepareNewCluster``).
"""

import copy
import re
from collections.abc import Iterator
from typing import Any

from deploy.chart.changes import Effect

Object = dict[str, Any]

LONGEST_NAME = 47
_UPGRADES = {"NewCluster", "NewClusterWithIncrementalUpgrade", "None"}
_RESOURCES = {"num-cpus", "num-gpus", "memory", "resources"}
_FT_VARIABLES = {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"}


def violations(service: Object) -> list[str]:
    """Why the operator would refuse a RayService, or not make its Service; empty when it takes it."""
    return [*_metadata(service["metadata"]), *_spec(service["spec"]), *_cluster(service["spec"]["rayClusterConfig"])]


def _metadata(metadata: Object) -> Iterator[str]:
    name = metadata["name"]
    if len(name) > LONGEST_NAME:
        yield f"name of {len(name)} characters"
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"name {name} is not a DNS-1035 label"


def _spec(spec: Object) -> Iterator[str]:
    strategy = spec.get("upgradeStrategy", {})
    if strategy.get("type", "NewCluster") not in _UPGRADES:
        yield f"upgrade strategy {strategy['type']}"
    if spec.get("rayClusterDeletionDelaySeconds", 0) < 0:
        yield "negative deletion delay"
    if strategy.get("type") == "NewClusterWithIncrementalUpgrade":
        options = strategy.get("clusterUpgradeOptions", {})
        if not spec["rayClusterConfig"].get("enableInTreeAutoscaling"):
            yield "incremental upgrade without the autoscaler"
        if not options.get("gatewayClassName"):
            yield "incremental upgrade without a gateway class"
        if not 0 <= options.get("stepSizePercent", -1) <= 100 or not 0 <= options.get("maxSurgePercent", 100) <= 100:
            yield "percentages beyond 0 to 100"
        if options.get("intervalSeconds", 0) <= 0:
            yield "no interval between steps"


def _cluster(cluster: Object) -> Iterator[str]:
    head, autoscaling = cluster["headGroupSpec"], cluster.get("enableInTreeAutoscaling", False)
    groups = cluster["workerGroupSpecs"]
    for group in [head, *groups]:
        parameters, pod = group["rayStartParams"], group["template"]["spec"]
        name = group.get("groupName", "head")
        if not pod["containers"]:
            yield f"{name} has no container"
        if _RESOURCES & set(parameters) and group.get("resources"):
            yield f"{name} has resources twice"
        if "labels" in parameters:
            yield f"{name} has labels in rayStartParams"
        if autoscaling and pod.get("restartPolicy", "Never") != "Never":
            yield f"{name} restarts under autoscaler v2"
    for group in groups:
        low, high = group.get("minReplicas"), group.get("maxReplicas")
        if not autoscaling and (low is None or high is None):
            yield f"{group['groupName']} lacks minReplicas or maxReplicas"
        if low is not None and high is not None and not 0 <= low <= high:
            yield f"{group['groupName']} has replicas from {low} to {high}"
    variables = {variable["name"] for variable in head["template"]["spec"]["containers"][0].get("env", ())}
    if variables & _FT_VARIABLES:
        yield "GCS fault tolerance in the head's environment"
    if cluster.get("authOptions", {}).get("mode") == "token" and _version(cluster["rayVersion"]) < (2, 52):
        yield "token authentication before Ray 2.52"
    # common/service.go, BuildServeService: without it no Service is made.
    if "serve" not in {port["name"] for port in head["template"]["spec"]["containers"][0]["ports"]}:
        yield "the head has no port called serve"


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def compared(cluster: Object) -> Object:
    """What of ``rayClusterConfig`` decides whether a new cluster is started."""
    cluster = copy.deepcopy(cluster)
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        for key in ("replicas", "minReplicas", "maxReplicas"):
            group.pop(key, None)
        for key in ("tolerations", "schedulingGates"):
            group["template"]["spec"].pop(key, None)
    return cluster


def effect(before: list[Object], after: list[Object]) -> Effect | None:
    """What an upgrade from one set of objects to the other does; ``None`` when they are the same."""
    old, new = _service(before), _service(after)
    if old["metadata"]["name"] != new["metadata"]["name"]:
        raise ValueError("another RayService, not a change of this one")
    old_cluster, new_cluster = old["spec"]["rayClusterConfig"], new["spec"]["rayClusterConfig"]
    if compared(old_cluster) != compared(new_cluster):
        return Effect.IN_PLACE if _groups_were_added(old_cluster, new_cluster) else Effect.NEW_CLUSTER
    if _kept_of_the_service(old) != _kept_of_the_service(new):
        return Effect.NEXT_SWITCH
    if old["spec"]["serveConfigV2"] != new["spec"]["serveConfigV2"]:
        return Effect.IN_PLACE
    if old_cluster != new_cluster or old["spec"].get("serveService") != new["spec"].get("serveService"):
        return Effect.IGNORED
    return None if before == after else Effect.IN_PLACE


def _kept_of_the_service(service: Object) -> Object | None:
    """What a switch takes over from ``serveService``: its specification alone (``reconcileServices``)."""
    kept: Object | None = service["spec"].get("serveService", {}).get("spec")
    return kept


def _groups_were_added(old: Object, new: Object) -> bool:
    old, new = compared(old), compared(new)
    count = len(old["workerGroupSpecs"])
    return len(new["workerGroupSpecs"]) > count and old == new | {"workerGroupSpecs": new["workerGroupSpecs"][:count]}


def _service(found: list[Object]) -> Object:
    (service,) = [item for item in found if item["kind"] == "RayService"]
    return service
