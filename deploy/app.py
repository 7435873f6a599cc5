"""``build_app(args)``: the same application for ``serve.py``, ``serve run deploy.app:build_app`` and a RayService."""

from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.serve.deployment import Application

from deploy.certificate import refuse_on_cluster
from deploy.gateway.stack import check
from deploy.llm import deployment_options
from deploy.loading import load
from deploy.machine import measure
from deploy.plan.placement import cores_of_a_replica
from deploy.replica import ModelReplica
from deploy.settings import Settings


def build_app(args: Mapping[str, Any]) -> Application:
    """Build the application from settings, given as nested keys (``vllm: {max_model_len: …}``) or dotted ones.

    HAProxy balances over the replicas and streams from each replica's own server, so the application is this one
    deployment: no router process and no second hop.

    Raises:
        UsageError: a setting is wrong, or keys are needed and there are none.
    """
    settings = load(args)
    check(settings)
    refuse_on_cluster(settings)
    return application(on_this_cluster(settings))


def application(settings: Settings) -> Application:
    """The one deployment; ``settings`` must have the device and the cores of a replica resolved."""
    replica = serve.ingress()(ModelReplica)
    return serve.deployment(replica, **deployment_options(settings)).bind(settings.model_dump(mode="json"))


def on_this_cluster(settings: Settings) -> Settings:
    """Resolve what depends on the cluster: the device, and how many cores a CPU replica gets.

    `serve run` builds the application before it connects to Ray; this machine then stands for the cluster's nodes.
    """
    hardware = settings.hardware
    if ray.is_initialized():
        resources = ray.cluster_resources()
        gpus, cores = resources.get("GPU", 0), int(resources.get("CPU", 1))
    else:
        machine = measure()
        gpus, cores = len(machine.gpus), len(machine.cores)
    device = hardware.device if hardware.device != "auto" else ("gpu" if gpus else "cpu")
    own_cores = hardware.cores_per_replica
    if device == "cpu":
        own_cores = cores_of_a_replica(settings, cores)
    update = {"device": device, "cores_per_replica": own_cores}
    return settings.model_copy(update={"hardware": hardware.model_copy(update=update)})
