"""``helm/values.yaml`` as a list: every key with its default and the comment above it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parents[2] / "helm"
FILE = CHART / "values.yaml"

FREE = {
    "autoscaler.resources",
    "head.resources",
    "worker.resources",
    "modelCache.preload.resources",
    "podSecurityContext",
    "securityContext",
}
"""Mappings that are Kubernetes' own, so that any key is passed on; other mappings are groups of the chart's keys."""


@dataclass(frozen=True)
class Value:
    """One key of the chart's values, for example ``drain.timeoutSeconds``; a group has no default of its own."""

    key: str
    default: Any
    description: str
    is_group: bool


def read(text: str) -> list[Value]:
    """Every key of a values file, in the file's order, groups before what they hold."""
    return list(_values(yaml.compose(text, yaml.SafeLoader), text.splitlines(), ""))


def _values(node: yaml.Node | None, lines: list[str], prefix: str) -> Iterator[Value]:
    assert isinstance(node, yaml.MappingNode)
    for name, value in node.value:
        key = f"{prefix}{name.value}"
        is_group = isinstance(value, yaml.MappingNode) and bool(value.value) and key not in FREE
        default = None if is_group else yaml.safe_load(yaml.serialize(value))
        yield Value(key, default, _comment_above(lines, name.start_mark.line), is_group)
        if is_group:
            yield from _values(value, lines, f"{key}.")


def _comment_above(lines: list[str], line: int) -> str:
    comment: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        comment.insert(0, lines[line].lstrip().removeprefix("#").strip())
    return " ".join(comment)
