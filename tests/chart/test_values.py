"""Prevents a schema of the values that is laxer, or stricter, than the chart and the settings behind it."""

import json
import tomllib
from typing import Any

import pytest
import yaml

from deploy.chart.schema import OWNED, RULES, settings_schema
from deploy.chart.values import FILE, FREE, Value, read
from deploy.loading import load
from deploy.schema import schema_of
from tests.chart.rendering import CHART, arguments, nested, objects, one, refusal

VALUES = read(FILE.read_text())
MINIMAL = {"auth.existingSecret": "keys"}


def setting_keys(schema: dict[str, Any], prefix: str = "") -> set[str]:
    """The dotted keys of the leaves of a settings schema."""
    keys = set[str]()
    for name, part in schema["properties"].items():
        keys |= setting_keys(part, f"{prefix}{name}.") if "properties" in part else {prefix + name}
    return keys


def test_the_settings_in_the_schema_are_all_but_those_that_the_chart_sets() -> None:
    owned = {key for key in schema_of().leaves if key in OWNED or key.partition(".")[0] in OWNED}
    assert setting_keys(settings_schema()) == set(schema_of().leaves) - owned
    assert owned >= {"server.port", "tls.key_file", "cache_dir", "gateway.keys"}


def test_every_value_is_described_and_no_rule_is_left_over() -> None:
    keys = {value.key for value in VALUES}
    undescribed = [value.key for value in VALUES if not value.description]
    assert undescribed == ["settings.hardware"]
    assert {key for key in RULES if key not in keys} == set()
    assert keys >= FREE


def test_every_mapping_of_the_schema_that_is_the_charts_own_is_strict() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def lax(part: dict[str, Any], path: str) -> list[str]:
        found = [] if part.get("additionalProperties") is False or "properties" not in part else [path]
        return found + [
            one for name, inner in part.get("properties", {}).items() for one in lax(inner, f"{path}.{name}")
        ]

    assert lax(schema, "") == []


@pytest.mark.parametrize("key", [value.key for value in VALUES if isinstance(value.default, bool)])
def test_a_switch_takes_no_text(key: str) -> None:
    path = "/" + key.replace(".", "/")
    assert refusal(nested(MINIMAL | {key: "yes"})) == f"- at '{path}': got string, want boolean"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("settings.guard.safe_prompt", False),
        ("settings.limits.body_bytes", 104857600),
        ("settings.limits.max_tokens", None),
        ("settings.scaling.health_check_period_s", 12.5),
        ("settings.engine", {"block_size": 32, "compilation_config": {"level": 3}}),
        ("settings.vllm.max_num_batched_tokens", 1_000_000),
    ],
)
def test_a_setting_reaches_the_application_as_it_is_given(key: str, value: Any) -> None:
    found = load(arguments(one("RayService", nested(MINIMAL | {key: value})))).model_dump()
    wanted = load(nested({key: value})["settings"]).model_dump()
    for part in key.removeprefix("settings.").split("."):
        found, wanted = found[part], wanted[part]
    assert found == wanted


def test_the_chart_is_of_the_products_version_and_of_the_pinned_ray() -> None:
    project = tomllib.loads((CHART.parent / "pyproject.toml").read_text())["project"]
    description = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert description["appVersion"] == project["version"]
    (ray,) = [value.default for value in VALUES if value.key == "ray.version"]
    for device in ("cpu", "gpu"):
        pins = (CHART.parent / "requirements" / f"{device}.txt").read_text().splitlines()
        assert {pin.partition("==")[2] for pin in pins if pin.startswith(("ray==", "ray["))} == {ray}


def test_a_comment_above_a_key_is_its_description() -> None:
    text = "# About a.\na:\n  # First line\n  # and second.\n  b: 1\n  c: {x: 1}\n# Free.\nd: {}\n"
    assert read(text) == [
        Value("a", None, "About a.", is_group=True),
        Value("a.b", 1, "First line and second.", is_group=False),
        Value("a.c", None, "", is_group=True),
        Value("a.c.x", 1, "", is_group=False),
        Value("d", {}, "Free.", is_group=False),
    ]


def test_a_parent_chart_may_hand_over_global_values() -> None:
    assert objects(nested(MINIMAL | {"global": {"imageRegistry": "r.example.com"}}))
