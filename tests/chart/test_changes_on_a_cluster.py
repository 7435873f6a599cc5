"""Prevents a table of changes that agrees with our copy of KubeRay's rules and not with KubeRay.

Every row is applied to the cluster that KUBECONFIG names, all at once; the real operator decides.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from deploy.chart.changes import BASE, CHANGES, Change, Effect
from tests.chart.real_cluster import Namespace, namespace, skip_without_cluster, until
from tests.chart.rendering import Object, nested, objects


@dataclass(frozen=True)
class Seen:
    """What KubeRay made of one release before and after its change: the cluster's name and its specification."""

    before: Object
    after: Object


def release(change: Change) -> str:
    return f"row-{CHANGES.index(change)}"


def manifests(name: str, values: Mapping[str, Any]) -> list[Object]:
    """A release's RayService, and the account without which KubeRay makes no head."""
    return [item for item in objects(nested(values), name) if item["kind"] in ("RayService", "ServiceAccount")]


def rows(*, changed: bool) -> list[Object]:
    """All rows, each as a release of its own."""
    return [
        item
        for change in CHANGES
        for item in manifests(release(change), {**BASE, **change.before, **(change.after if changed else {})})
    ]


def apply(space: Namespace, found: list[Object], marker: str) -> dict[str, Object]:
    """Apply objects; returns the cluster that KubeRay then wants for each release.

    The operator takes changes in turn, so it has seen all of them when it has made the cluster of a later release.
    """
    space.kubectl("apply", "--server-side", "--filename=-", given=yaml.safe_dump_all(found))
    space.kubectl("apply", "--server-side", "--filename=-", given=yaml.safe_dump_all(manifests(marker, BASE)))
    space.first_cluster(f"{marker}-mistral-serve")
    wanted = {
        item["metadata"]["name"].removesuffix("-mistral-serve"): item["status"]["pendingServiceStatus"][
            "rayClusterName"
        ]
        for item in space.get("rayservices")
    }
    until(lambda: set(wanted.values()) <= {item["metadata"]["name"] for item in space.get("rayclusters")}, "clusters")
    made = {item["metadata"]["name"]: item for item in space.get("rayclusters")}
    return {name: made[cluster] for name, cluster in wanted.items()}


@pytest.fixture(scope="module")
def seen() -> Iterator[dict[str, Seen]]:
    skip_without_cluster()
    with namespace() as space:
        before = apply(space, rows(changed=False), "first")
        after = apply(space, rows(changed=True), "second")
        yield {name: Seen(before[name], after[name]) for name in before}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: f"{', '.join(change.after)}: {change.effect}")
def test_kuberay_does_what_the_table_says(change: Change, seen: dict[str, Seen]) -> None:
    row = seen[release(change)]
    is_new = row.before["metadata"]["name"] != row.after["metadata"]["name"]
    assert is_new == (change.effect is Effect.NEW_CLUSTER)
    if change.effect in (Effect.IGNORED, Effect.NEXT_SWITCH):
        assert row.after["spec"] == row.before["spec"]
