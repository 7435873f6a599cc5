"""Prevents objects beside the RayService that select or name what is not there, and notes that lead nowhere."""

from typing import Any

from tests.chart.rendering import environment, files, group, objects, of_kind, one, profile, values


def test_the_labels_that_rules_select_are_those_of_the_pods() -> None:
    found = objects(values(settings__scaling__replicas=3))
    (budget,) = of_kind("PodDisruptionBudget", found)
    worker = group(of_kind("RayService", found)[0])["template"]
    selected = budget["spec"]["selector"]["matchLabels"]
    assert worker["metadata"]["labels"] == selected
    assert worker["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"] == selected
    assert budget["spec"]["minAvailable"] == 2


def test_a_single_replica_has_no_budget_that_would_block_every_drain() -> None:
    assert of_kind("PodDisruptionBudget", objects(values())) == []


def test_routes_lead_to_the_service_that_kuberay_makes() -> None:
    (rule,) = one("HTTPRoute", profile("httproute"))["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": "demo-mistral-serve-serve-svc", "port": 8000}]
    assert rule["timeouts"] == {"request": "600s"}
    (rule,) = one("Ingress", profile("ingress"))["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": "demo-mistral-serve-serve-svc", "port": {"number": 8000}}


def test_the_operators_own_gateway_is_tested_during_upgrades_in_steps() -> None:
    steps = {"upgrade__strategy": "NewClusterWithIncrementalUpgrade", "upgrade__gatewayClassName": "istio"}
    (container,) = one("Pod", values(**steps))["spec"]["containers"]
    assert environment(container)["BASE_URL"] == "http://demo-mistral-serve-gateway"
    (container,) = one("Pod", values())["spec"]["containers"]
    assert environment(container)["BASE_URL"] == "http://demo-mistral-serve-serve-svc:8000"


def test_the_notes_tell_the_next_three_commands_and_warn() -> None:
    def notes(**given: Any) -> str:
        return files(values(**given))["NOTES.txt"]

    commands = [line.strip() for line in notes().splitlines() if line.startswith("   ")]
    assert commands == [
        "kubectl -n models wait rayservice/demo-mistral-serve --for=condition=Ready --timeout=30m",
        "helm -n models test demo",
        "kubectl -n models port-forward service/demo-mistral-serve-serve-svc 8000:8000",
        'then: curl http://localhost:8000/v1/models -H "Authorization: Bearer $KEY"',
    ]
    assert "WARNING" not in notes()
    assert "auth.enabled is false" in notes(auth__enabled=False)
    assert "upgrade.strategy is None" in notes(upgrade__strategy="None")
    assert "networkPolicy.enabled is false" in notes(networkPolicy__enabled=False)
    assert "rayAuth.enabled is false" in notes(rayAuth__enabled=False)
