"""Custom resources checked strictly against the schemas of their definitions, kept compressed in ``crds.json.xz``.

``python -m tests.chart.crds FILE…`` makes that file anew from the definitions of KubeRay (``ray.io_rayservices.yaml``)
and of Gateway API (``gateway.networking.k8s.io_httproutes.yaml``).
"""

import json
import lzma
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

FILE = Path(__file__).with_name("crds.json.xz")

Object = dict[str, Any]


def problems(item: Object) -> list[str]:
    """Where an object differs from its definition's schema, unknown fields included."""
    return [f"{error.json_path}: {error.message}" for error in _validator(item["kind"]).iter_errors(item)]


def kinds() -> set[str]:
    """The kinds whose schemas are kept."""
    return set(_schemas())


@cache
def _schemas() -> Object:
    return dict(json.loads(lzma.decompress(FILE.read_bytes())))


@cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    schema = strict(_schemas()[kind])
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


def strict(schema: Object) -> Object:
    """An OpenAPI v3 schema of a definition as a JSON schema in which unknown fields are errors."""
    kept = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    if "properties" in kept:
        kept["properties"] = {name: strict(part) for name, part in kept["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            kept["additionalProperties"] = False
    elif isinstance(kept.get("additionalProperties"), dict):
        kept["additionalProperties"] = strict(kept["additionalProperties"])
    if "items" in kept:
        kept["items"] = strict(kept["items"])
    if kept.pop("nullable", False):
        kept["type"] = [kept["type"], "null"]
    return kept


def _without_descriptions(node: Any) -> Any:
    if isinstance(node, dict):
        kept = {key: value for key, value in node.items() if key != "description" or not isinstance(value, str)}
        return {key: _without_descriptions(value) for key, value in kept.items()}
    return [_without_descriptions(item) for item in node] if isinstance(node, list) else node


def pack(definitions: list[Path]) -> bytes:
    """The compressed schemas of version v1 of each definition, by kind."""
    schemas = {}
    for path in definitions:
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
        (version,) = [version for version in spec["versions"] if version["name"] == "v1"]
        schemas[spec["names"]["kind"]] = _without_descriptions(version["schema"]["openAPIV3Schema"])
    return lzma.compress(json.dumps(schemas, separators=(",", ":")).encode(), preset=9)


if __name__ == "__main__":
    FILE.write_bytes(pack([Path(argument) for argument in sys.argv[1:]]))
