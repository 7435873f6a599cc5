"""Prevents an upgrade that restarts what it need not, and a page that promises another effect than KubeRay's."""

import shutil
from pathlib import Path

import pytest
import yaml

from deploy.chart.changes import BASE, CHANGES, Change, Effect
from deploy.chart.pages import render_changes
from deploy.chart.values import FILE, read
from tests.chart import kuberay
from tests.chart.rendering import CHART, PROFILES, Object, nested, objects, one


def identity(change: Change) -> str:
    return f"{', '.join(change.after)} with {', '.join(change.before) or 'defaults'}"


@pytest.mark.parametrize("change", CHANGES, ids=identity)
def test_a_change_has_the_effect_that_the_table_says(change: Change) -> None:
    before = objects(nested(dict(BASE) | dict(change.before)))
    after = objects(nested(dict(BASE) | dict(change.before) | dict(change.after)))
    assert kuberay.effect(before, after) == change.effect


@pytest.mark.parametrize("change", CHANGES, ids=identity)
def test_an_example_changes_what_its_row_is_about(change: Change) -> None:
    assert all(any(key == row or key.startswith(f"{row}.") for row in change.keys) for key in change.after)


def test_every_value_stands_in_the_table() -> None:
    rows = {key for change in CHANGES for key in change.keys}
    leaves = [value.key for value in read(FILE.read_text()) if not value.is_group]
    covered = {key for key in leaves if any(key == row or key.startswith(f"{row}.") for row in rows)}
    assert set(leaves) - covered == {"nameOverride", "fullnameOverride"}


def test_the_page_explains_every_effect() -> None:
    page = render_changes()
    assert [effect for effect in Effect if f"\n| {effect} |" not in page] == []


def with_version(chart: Path, version: str, target: Path) -> Path:
    shutil.copytree(chart, target)
    description = yaml.safe_load((target / "Chart.yaml").read_text()) | {"version": version}
    (target / "Chart.yaml").write_text(yaml.safe_dump(description))
    return target


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.name)
def test_a_new_version_of_the_chart_leaves_the_cluster_byte_for_byte_the_same(path: Path, tmp_path: Path) -> None:
    values: Object = yaml.safe_load(path.read_text())
    newer = objects(values, path=with_version(CHART, "99.1.2", tmp_path / "chart"))
    (new,) = [item for item in newer if item["kind"] == "RayService"]
    old = one("RayService", values)
    assert new["metadata"]["labels"]["helm.sh/chart"] == "mistral-serve-99.1.2"
    assert yaml.safe_dump(new["spec"]) == yaml.safe_dump(old["spec"])


def test_tolerations_and_bounds_are_not_compared_and_all_else_is() -> None:
    spec = one("RayService", nested(dict(BASE)))["spec"]["rayClusterConfig"]
    worker = kuberay.compared(spec)["workerGroupSpecs"][0]
    assert {"minReplicas", "maxReplicas", "replicas"} & set(worker) == set()
    assert "terminationGracePeriodSeconds" in worker["template"]["spec"]


def test_rendering_twice_gives_the_same() -> None:
    assert objects(nested(dict(BASE))) == objects(nested(dict(BASE)))
