"""Which change of a value does what to a running release: one table, which the documentation shows and tests verify."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Effect(StrEnum):
    """What becomes of a change when `helm upgrade` hands it over."""

    IN_PLACE = "in place"
    NEW_CLUSTER = "new cluster"
    NEXT_SWITCH = "next switch"
    IGNORED = "ignored"


Values = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """Values whose change has one effect, with an example: dotted keys before and after, on top of `BASE`."""

    keys: tuple[str, ...]
    effect: Effect
    after: Values
    before: Values = field(default_factory=dict)
    note: str = ""


BASE: Values = {"auth.existingSecret": "keys"}
"""The least that renders."""

_RANGE = {
    "settings.scaling.min_replicas": 1,
    "settings.scaling.max_replicas": 3,
    "settings.scaling.target_ongoing_requests": 24,
}
_FIXED = {"autoscaler.enabled": False}
_CPU = {"settings.hardware.device": "cpu", "settings.hardware.cores_per_replica": 4}
_CLAIM = {"modelCache.type": "existingClaim", "modelCache.existingClaim": "models"}
_GROUP = {"name": "large", "nodeSelector": {"gpu": "large"}}

CHANGES = (
    Change(
        ("settings",),
        Effect.IN_PLACE,
        {"settings.vllm.max_num_seqs": 32},
        note="Serve replaces the replicas one by one; each loads its model anew. All settings but those below.",
    ),
    Change(
        ("settings.model", "settings.revision"),
        Effect.IN_PLACE,
        {"settings.model": "mistralai/Mistral-7B-Instruct-v0.3"},
    ),
    Change(
        (
            "settings.scaling.min_replicas",
            "settings.scaling.max_replicas",
            "settings.scaling.target_ongoing_requests",
            "settings.scaling.upscale_delay_s",
            "settings.scaling.downscale_delay_s",
            "settings.scaling.look_back_s",
        ),
        Effect.IN_PLACE,
        {"settings.scaling.max_replicas": 5},
        _RANGE,
        "No running replica is touched; Ray's autoscaler adds and removes worker pods.",
    ),
    Change(
        ("settings.scaling.replicas",),
        Effect.IN_PLACE,
        {"settings.scaling.replicas": 2},
        note="With `autoscaler.enabled`: as above. From a number to a range, or back, every replica is replaced.",
    ),
    Change(
        ("settings.scaling.replicas",),
        Effect.NEW_CLUSTER,
        {"settings.scaling.replicas": 2},
        _FIXED,
        "Without it: KubeRay would ignore another number of worker pods, so the chart makes it a new cluster.",
    ),
    Change(
        ("settings.vllm.tensor_parallel_size",),
        Effect.NEW_CLUSTER,
        {"settings.vllm.tensor_parallel_size": 2},
        note="The worker pods ask for other resources.",
    ),
    Change(
        ("settings.hardware.device", "settings.hardware.cores_per_replica"),
        Effect.NEW_CLUSTER,
        {"settings.hardware.cores_per_replica": 8},
        _CPU,
        "The worker pods ask for other resources.",
    ),
    Change(
        ("settings.log.engine_level",),
        Effect.NEW_CLUSTER,
        {"settings.log.engine_level": "info"},
        note="It is also a variable of the pods.",
    ),
    Change(("image",), Effect.NEW_CLUSTER, {"image.tag": "0.2.0-gpu"}),
    Change(("ray", "rayAuth"), Effect.NEW_CLUSTER, {"rayAuth.enabled": False}),
    Change(("autoscaler",), Effect.NEW_CLUSTER, {"autoscaler.idleTimeoutSeconds": 600}),
    Change(
        ("autoscaler.maxWorkers",),
        Effect.IGNORED,
        {"autoscaler.maxWorkers": 2000},
        note="Until another change starts a new cluster.",
    ),
    Change(("head",), Effect.NEW_CLUSTER, {"head.resources.limits.memory": "8Gi"}),
    Change(("worker",), Effect.NEW_CLUSTER, {"worker.resources.requests.cpu": "8"}),
    Change(
        ("head.tolerations", "worker.tolerations"),
        Effect.IGNORED,
        {"worker.tolerations": [{"key": "gpu", "operator": "Exists"}]},
        note="Until another change starts a new cluster.",
    ),
    Change(("workerGroups",), Effect.IN_PLACE, {"workerGroups": [_GROUP]}, note="A group added at the end."),
    Change(
        ("workerGroups",),
        Effect.NEW_CLUSTER,
        {"workerGroups": [_GROUP | {"shmSize": "4Gi"}]},
        {"workerGroups": [_GROUP]},
        "Any other change.",
    ),
    Change(("modelCache",), Effect.NEW_CLUSTER, {"modelCache.type": "none"}),
    Change(
        ("modelCache.size", "modelCache.storageClass", "modelCache.accessMode", "modelCache.keep"),
        Effect.IN_PLACE,
        {"modelCache.size": "80Gi"},
        {"modelCache.type": "pvc"},
        "Of a claim; Kubernetes allows little: a larger size where the storage class permits it, and refuses another "
        "class or access mode, with which the upgrade fails. Of an `emptyDir`, the size starts a new cluster.",
    ),
    Change(
        ("modelCache.preload",),
        Effect.IN_PLACE,
        {"modelCache.preload.enabled": True},
        _CLAIM,
        "Another model, too, is another job.",
    ),
    Change(("hfToken",), Effect.NEW_CLUSTER, {"hfToken.existingSecret": "hf"}),
    Change(
        ("hfToken.value",),
        Effect.IN_PLACE,
        {"hfToken.value": "new"},
        {"hfToken.value": "old"},
        "For worker pods that start afterwards. The first value starts a new cluster.",
    ),
    Change(
        ("auth", "tls", "quotasRedis", "moderation"),
        Effect.NEW_CLUSTER,
        {"auth.existingSecret": "other-keys"},
        note="Another content of the same Secret needs no upgrade: the key file is read again about a minute later, a "
        "password when a replica starts, a certificate when HAProxy does.",
    ),
    Change(
        ("auth.secretKey", "quotasRedis.secretKey", "moderation.secretKey"),
        Effect.IN_PLACE,
        {"auth.secretKey": "other.yaml"},
        note="As `settings`.",
    ),
    Change(
        ("auth.keysFile",),
        Effect.IN_PLACE,
        {"auth.keysFile": "keys: [1]"},
        {"auth.existingSecret": "", "auth.keysFile": "keys: []"},
        "About a minute later.",
    ),
    Change(
        ("gcsFaultTolerance",),
        Effect.NEW_CLUSTER,
        {"gcsFaultTolerance.enabled": True, "gcsFaultTolerance.redisAddress": "redis:6379"},
    ),
    Change(("upgrade",), Effect.IN_PLACE, {"upgrade.strategy": "None"}, note="It decides about later changes."),
    Change(
        ("drain",),
        Effect.NEW_CLUSTER,
        {"drain.timeoutSeconds": 300},
        note="Ray reads it when it starts.",
    ),
    Change(
        ("service.type",),
        Effect.NEXT_SWITCH,
        {"service.type": "LoadBalancer"},
        note="KubeRay keeps the Service until the next new cluster takes over.",
    ),
    Change(
        ("service.annotations",),
        Effect.IGNORED,
        {"service.annotations": {"example.com/internal": "false"}},
        {"service.annotations": {"example.com/internal": "true"}},
        "KubeRay writes them when it makes the Service: delete the Service, and it makes another.",
    ),
    Change(
        ("pdb", "ingress", "httpRoute", "networkPolicy", "extraObjects"),
        Effect.IN_PLACE,
        {"networkPolicy.enabled": False},
    ),
    Change(("test",), Effect.IN_PLACE, {"test.existingSecret": "key"}, note="For the next `helm test`."),
    Change(("serviceAccount",), Effect.NEW_CLUSTER, {"serviceAccount.name": "models"}),
    Change(
        ("serviceAccount.annotations",), Effect.IN_PLACE, {"serviceAccount.annotations": {"example.com/role": "models"}}
    ),
    Change(
        ("podSecurityContext", "securityContext"), Effect.NEW_CLUSTER, {"securityContext.readOnlyRootFilesystem": False}
    ),
)
