"""``helm/values.schema.json``: strict, made from ``helm/values.yaml``, the rules below, and ``Settings``.

Helm checks the values against it before it renders. Draft 7, which every Helm that reads charts of version 2 knows.
"""

import json
from collections.abc import Mapping
from typing import Any

from deploy.chart.values import CHART, FILE, FREE, Value, read
from deploy.settings import Settings

FILE_OUT = CHART / "values.schema.json"

OWNED = (
    "server",
    "tls",
    "cache_dir",
    "gateway.keys",
    "gateway.keys_file",
    "quotas.redis_password_file",
    "guard.moderation_key_file",
    "scaling.drain_timeout_s",
)
"""Settings that follow from other values, so that a user of the chart cannot give them."""

Json = dict[str, Any]

_KEPT = {
    "type",
    "enum",
    "anyOf",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "minLength",
    "description",
    "properties",
    "additionalProperties",
    "items",
}
_OBJECTS: Json = {"type": "array", "items": {"type": "object"}}
_TEXTS: Json = {"type": "array", "items": {"type": "string", "minLength": 1}}
_SECONDS_OR_NULL: Json = {"type": ["integer", "null"], "minimum": 0}
_QUANTITY: Json = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?([KMGT]i?)?$"}
_VARIABLES: Json = {"type": "array", "items": {"type": "object", "required": ["name"]}}
_GROUP_NAME: Json = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 40}

RULES: Mapping[str, Json] = {
    "image.repository": {"type": "string", "minLength": 1},
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "image.pullPolicy": {"enum": ["IfNotPresent", "Always", "Never"]},
    "image.pullSecrets": _TEXTS,
    "ray.version": {"type": "string", "pattern": r"^[0-9]+\.[0-9]+\.[0-9]+$"},
    # Ray refuses less than 75 MiB (ray/_private/ray_constants.py, OBJECT_STORE_MINIMUM_MEMORY_BYTES).
    "ray.objectStoreBytes": {"type": "integer", "minimum": 78643200},
    "autoscaler.maxWorkers": {"type": "integer", "minimum": 1},
    "head.shmSize": _QUANTITY,
    "head.env": _VARIABLES,
    "worker.shmSize": _QUANTITY,
    "worker.env": _VARIABLES,
    "modelCache.type": {"enum": ["none", "emptyDir", "pvc", "existingClaim", "image", "hostPath"]},
    "modelCache.mountPath": {"type": "string", "pattern": "^/"},
    "modelCache.size": _QUANTITY,
    "modelCache.accessMode": {"enum": ["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany", "ReadOnlyMany"]},
    "upgrade.strategy": {"enum": ["NewCluster", "None", "NewClusterWithIncrementalUpgrade"]},
    "upgrade.deletionDelaySeconds": _SECONDS_OR_NULL,
    "upgrade.stepSizePercent": {"type": "integer", "minimum": 1, "maximum": 100},
    "upgrade.intervalSeconds": {"type": "integer", "minimum": 1},
    "upgrade.maxSurgePercent": {"type": "integer", "minimum": 1, "maximum": 100},
    "drain.timeoutSeconds": {"type": "integer", "minimum": 0, "maximum": 86400},
    "drain.terminationGracePeriodSeconds": _SECONDS_OR_NULL,
    "pdb.minAvailable": {"type": ["integer", "null"], "minimum": 0},
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "httpRoute.hostnames": _TEXTS,
    "networkPolicy.egress": {"type": ["array", "null"], "items": {"type": "object"}},
    "extraObjects": {"type": "array", "items": {"type": ["object", "string"]}},
}
"""What a default does not tell. Any other value has its default's type, and a number is not negative."""


def render() -> str:
    """The schema as JSON, with a newline at its end."""
    values = [value for value in read(FILE.read_text(encoding="utf-8")) if not value.key.startswith("settings.")]
    root = _strict_object({})
    for value in values:
        group, _, name = value.key.rpartition(".")
        parent = root
        for part in group.split(".") if group else ():
            parent = parent["properties"][part]
        parent["properties"][name] = {"description": value.description} | _schema(value)
    root["properties"]["workerGroups"] |= _worker_groups(root["properties"]["worker"])
    # Helm merges the values of a parent chart's `global` into every chart.
    root["properties"]["global"] = {"type": "object"}
    return json.dumps({"$schema": "http://json-schema.org/draft-07/schema#"} | root, indent=1) + "\n"


def settings_schema() -> Json:
    """The schema of ``settings``: that of ``Settings`` without what the chart decides itself."""
    whole = Settings.model_json_schema()
    schema = _inlined(whole, whole["$defs"])
    for key in OWNED:
        group, _, name = key.rpartition(".")
        parent = schema["properties"][group] if group else schema
        del parent["properties"][name]
    # Which resources a pod asks for cannot wait until a replica has looked for a GPU.
    schema["properties"]["hardware"]["properties"]["device"]["enum"] = ["cpu", "gpu"]
    schema["properties"]["hardware"]["required"] = ["device"]
    return schema | {"required": ["model", "hardware"]}


def _schema(value: Value) -> Json:
    if value.key == "settings":
        return settings_schema()
    if value.is_group:
        return _strict_object({})
    if value.key in RULES:
        return dict(RULES[value.key])
    if value.key in FREE or isinstance(value.default, dict):
        return {"type": "object"}
    if isinstance(value.default, list):
        return dict(_OBJECTS)
    if isinstance(value.default, bool):
        return {"type": "boolean"}
    if isinstance(value.default, int):
        return {"type": "integer", "minimum": 0}
    if isinstance(value.default, str):
        return {"type": "string"}
    raise ValueError(f"the default of {value.key} does not tell its type: add it to RULES")


def _worker_groups(worker: Json) -> Json:
    group = _strict_object({"name": _GROUP_NAME} | worker["properties"])
    return {"items": group | {"required": ["name"]}}


def _strict_object(properties: Json) -> Json:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _inlined(schema: Json, definitions: Json) -> Json:
    """``schema`` with every reference replaced by what it refers to, and without what Helm does not need."""
    if "$ref" in schema:
        referred = definitions[schema["$ref"].rpartition("/")[2]]
        schema = referred | {key: value for key, value in schema.items() if key != "$ref"}
    kept = {key: value for key, value in schema.items() if key in _KEPT}
    if "const" in schema:
        kept["enum"] = [schema["const"]]
    if "properties" in kept:
        kept["properties"] = {name: _inlined(part, definitions) for name, part in kept["properties"].items()}
    if "anyOf" in kept:
        kept["anyOf"] = [_inlined(part, definitions) for part in kept["anyOf"]]
    # YAML 1.1 reads the bare words as booleans, and Settings takes those back (deploy/settings/fields.py).
    if words := {"on", "off"} & set(kept.get("enum", ())):
        kept["enum"] = [*kept["enum"], *(word == "on" for word in sorted(words))]
        del kept["type"]
    return kept
