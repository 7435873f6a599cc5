"""The chart rendered by Helm's own engine, without a cluster."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

CHART = Path(__file__).resolve().parents[2] / "helm"
PROFILES = sorted((CHART / "ci").glob("*-values.yaml"))
"""Values files that are shipped and checked, one for each feature."""

Object = dict[str, Any]


@cache
def chart(path: Path = CHART) -> helm_python.Chart:
    """The loaded chart."""
    return helm_python.Chart.load(path)


def nested(dotted: Mapping[str, Any]) -> Object:
    """``{"a.b": 1}`` as ``{"a": {"b": 1}}``."""
    values: Object = {}
    for key, value in dotted.items():
        *groups, name = key.split(".")
        inner = values
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[name] = value
    return values


def profile(name: str) -> Object:
    """The values of ``helm/ci/NAME-values.yaml``."""
    return dict(yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text()))


def files(values: Object, name: str = "demo", path: Path = CHART) -> dict[str, str]:
    """The text of every template that rendered to something, by its name without the chart's."""
    rendered = chart(path).render(values, name=name, namespace="models")
    return {file.partition("templates/")[2]: text for file, text in rendered.items() if text.strip()}


def objects(values: Object, name: str = "demo", path: Path = CHART) -> list[Object]:
    """Every Kubernetes object of a release."""
    texts = [text for file, text in files(values, name, path).items() if not file.endswith(".txt")]
    return [one for text in texts for one in yaml.safe_load_all(text) if one]


def one(kind: str, values: Object, name: str = "demo") -> Object:
    """The only object of a kind."""
    (found,) = of_kind(kind, objects(values, name))
    return found


def of_kind(kind: str, found: list[Object]) -> list[Object]:
    """The objects of a kind among others."""
    return [item for item in found if item["kind"] == kind]


def refusal(values: Object, name: str = "demo") -> str:
    """The sentence that a render fails with; Helm puts the template's name before it."""
    try:
        files(values, name)
    except helm_python.HelmRenderError as error:
        return str(error).partition("): ")[2]
    except helm_python.HelmValuesError as error:
        return str(error).partition("mistral-serve:\n")[2].strip()
    raise AssertionError("these values render")


def serve_config(service: Object) -> Object:
    """Ray Serve's configuration in a RayService."""
    return dict(yaml.safe_load(service["spec"]["serveConfigV2"]))


def arguments(service: Object) -> Object:
    """What ``deploy.app:build_app`` gets."""
    return dict(serve_config(service)["applications"][0]["args"])


def containers(service: Object) -> dict[str, Object]:
    """The Ray containers by the name of their group: ``head``, ``model``, …"""
    cluster = service["spec"]["rayClusterConfig"]
    groups = {"head": cluster["headGroupSpec"]} | {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {name: group["template"]["spec"]["containers"][0] for name, group in groups.items()}


def values(**given: Any) -> Object:
    """The least that renders, and what is given: ``__`` stands for the dot."""
    return nested({"auth.existingSecret": "keys"} | {key.replace("__", "."): value for key, value in given.items()})


def service(**given: Any) -> Object:
    """The RayService of ``values``."""
    return one("RayService", values(**given))


def environment(container: Object) -> dict[str, str | None]:
    """A container's variables; the value of one that comes from elsewhere is ``None``."""
    return {variable["name"]: variable.get("value") for variable in container["env"]}


def group(found: Object, name: str = "model") -> Object:
    """A group of worker pods."""
    return next(item for item in found["spec"]["rayClusterConfig"]["workerGroupSpecs"] if item["groupName"] == name)
