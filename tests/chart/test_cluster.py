"""Prevents a chart that renders and that no cluster takes: what the API server, its controllers and KubeRay's operator
refuse, drop or confuse.

They run against the cluster that KUBECONFIG names, which needs KubeRay's operator and no node.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.chart.real_cluster import CHART, WAIT, Namespace, namespace, skip_without_cluster, until

PROFILES = sorted((CHART / "ci").glob("*.yaml"))
DEMO = CHART / "ci" / "cpu-demo-values.yaml"
RELEASE, NAME = "demo", "demo-mistral-serve"


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> None:
    skip_without_cluster()


@pytest.fixture
def space() -> Iterator[Namespace]:
    with namespace() as new:
        yield new


def install(space: Namespace, *more: str | Path, release: str = RELEASE, values: Path = DEMO) -> None:
    space.helm("install", release, CHART, f"--values={values}", *more)


def upgrade(space: Namespace, *more: str | Path, chart: Path = CHART) -> None:
    space.helm("upgrade", RELEASE, chart, f"--values={DEMO}", *more)


def args_of(ray_service: dict[str, dict[str, str]]) -> dict[str, dict[str, object]]:
    config = yaml.safe_load(ray_service["spec"]["serveConfigV2"])
    return dict(config["applications"][0]["args"])


@pytest.mark.parametrize("values", PROFILES, ids=lambda path: path.stem)
def test_every_profile_is_admitted_and_kuberay_makes_the_pods_of_its_cluster(space: Namespace, values: Path) -> None:
    install(space, values=values)
    cluster = space.first_cluster(NAME)
    space.kubectl("wait", "pods", f"--selector=ray.io/cluster={cluster},ray.io/node-type=head", "--for=create", WAIT)
    # KubeRay says what it refuses in an event: InvalidRayServiceSpec, InvalidRayClusterSpec and their like.
    refusals = [event for event in space.get("events") if event["reason"].startswith("Invalid")]
    assert [event["message"] for event in refusals] == []


@pytest.mark.parametrize("values", PROFILES, ids=lambda path: path.stem)
def test_the_api_server_keeps_every_field_that_the_chart_writes(space: Namespace, values: Path) -> None:
    manifest = space.helm("template", RELEASE, CHART, f"--values={values}", "--no-hooks")
    space.kubectl("create", "--dry-run=server", "--validate=strict", "--filename=-", given=manifest)


def test_the_hooks_of_helm_test_are_admitted(space: Namespace) -> None:
    install(space)
    hooks = space.helm("get", "hooks", RELEASE)
    created = space.kubectl("create", "--dry-run=server", "--validate=strict", "--filename=-", given=hooks)
    assert created.count("created (server dry run)") >= 1


def until_all_earlier_changes_are_seen(space: Namespace) -> None:
    """KubeRay's operator takes changes in turn, so it has seen every earlier one once it has made a later cluster."""
    install(space, release="later")
    space.first_cluster("later-mistral-serve")


def test_changed_settings_keep_the_cluster_and_a_changed_pod_makes_a_new_one(space: Namespace) -> None:
    install(space)
    space.first_cluster(NAME)
    first = space.ray_clusters(NAME)
    changed = "--set=settings.vllm.max_num_seqs=32"
    upgrade(space, changed)
    until_all_earlier_changes_are_seen(space)
    assert args_of(space.get("rayservice", NAME))["vllm"]["max_num_seqs"] == 32
    assert space.ray_clusters(NAME) == first
    upgrade(space, changed, "--set=head.resources.requests.memory=1Gi")
    until(lambda: len(space.ray_clusters(NAME)) == 2, "a second RayCluster")
    assert first < space.ray_clusters(NAME)


def test_a_rollback_restores_the_settings(space: Namespace) -> None:
    install(space)
    first = space.get("rayservice", NAME)["spec"]
    upgrade(space, "--set=settings.vllm.max_num_seqs=32")
    assert space.get("rayservice", NAME)["spec"] != first
    space.helm("rollback", RELEASE, "1")
    assert space.get("rayservice", NAME)["spec"] == first


def test_a_new_version_of_the_chart_alone_changes_nothing_of_the_cluster(space: Namespace, tmp_path: Path) -> None:
    install(space)
    space.first_cluster(NAME)
    before = space.get("rayservice", NAME)
    chart = Path(shutil.copytree(CHART, tmp_path / "chart"))
    metadata = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump(metadata | {"version": "99.0.0"}))
    upgrade(space, chart=chart)
    assert space.get("rayservice", NAME)["metadata"]["generation"] == before["metadata"]["generation"]


def test_uninstalling_leaves_nothing(space: Namespace) -> None:
    install(space)
    space.first_cluster(NAME)
    assert f"rayservice/{NAME}" in space.objects()
    space.helm("uninstall", RELEASE, "--wait", "--timeout=60s")
    space.kubectl("wait", "rayclusters,pods,services,secrets", "--all", "--for=delete", WAIT)
    # The operator may have been about to make some.
    until(lambda: space.objects() == set(), "everything is gone")


def test_two_releases_in_one_namespace_share_nothing(space: Namespace) -> None:
    install(space)
    space.first_cluster(NAME)
    first = {name for name in space.objects() if "sh.helm.release" not in name}
    install(space, release="other")
    space.first_cluster("other-mistral-serve")
    space.helm("uninstall", "other", "--wait", "--timeout=60s")
    assert {name for name in space.objects() if "sh.helm.release" not in name} >= first


def test_two_releases_select_their_own_pods_only(space: Namespace) -> None:
    install(space)
    install(space, release="other")
    for release in (RELEASE, "other"):
        space.first_cluster(f"{release}-mistral-serve")
    policies = {
        policy["metadata"]["name"]: policy["spec"]["podSelector"]["matchLabels"]
        for policy in space.get("networkpolicies")
    }
    assert len({frozenset(labels.items()) for labels in policies.values()}) == len(policies) >= 2
