"""Prevents a value that the schema knows and the chart forgets."""

import json
from typing import Any

import pytest

from tests.chart.rendering import nested, objects

MINIMAL = {"auth.existingSecret": "keys"}
MARK = "passed-on"
AFFINITY = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [MARK]}}}
PEER = {"podSelector": {"matchLabels": {"app": MARK}}}
VALUES: list[tuple[str, dict[str, Any]]] = [
    ("RayService", {"head.nodeSelector": {"pool": MARK}}),
    ("RayService", {"head.affinity": AFFINITY}),
    ("RayService", {"head.priorityClassName": MARK}),
    ("RayService", {"worker.nodeSelector": {"pool": MARK}}),
    ("RayService", {"worker.affinity": AFFINITY}),
    ("RayService", {"worker.priorityClassName": MARK}),
    ("RayService", {"worker.runtimeClassName": MARK}),
    ("RayService", {"worker.extraVolumes": [{"name": MARK, "emptyDir": {}}]}),
    ("RayService", {"serviceAccount.create": False, "serviceAccount.name": MARK}),
    ("RayService", {"gcsFaultTolerance.enabled": True, "gcsFaultTolerance.redisAddress": f"{MARK}:6379"}),
    ("NetworkPolicy", {"networkPolicy.clients": [PEER]}),
    ("NetworkPolicy", {"networkPolicy.metricsClients": [PEER]}),
    ("NetworkPolicy", {"networkPolicy.operatorNamespaceLabels": {"name": MARK}}),
    ("NetworkPolicy", {"networkPolicy.extraIngress": [{"from": [PEER]}]}),
    ("NetworkPolicy", {"networkPolicy.egress": [{"to": [PEER]}]}),
]


@pytest.mark.parametrize(("kind", "given"), VALUES, ids=[next(iter(given)) for _, given in VALUES])
def test_a_value_arrives(kind: str, given: dict[str, Any]) -> None:
    found = [item for item in objects(nested(MINIMAL | given)) if item["kind"] == kind]
    assert MARK in json.dumps(found)
    assert MARK not in json.dumps([item for item in objects(nested(MINIMAL)) if item["kind"] == kind])
