"""Prevents a setting that a lower source wins, and a source that cannot give every setting."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.errors import UsageError
from deploy.flags import Flags
from deploy.loading import load
from deploy.schema import Leaf, schema_of
from deploy.settings import Settings, option

ROOT = Path(__file__).resolve().parents[2]


class WithDryRun(Settings):
    dry_run: bool = option(False, "Print the plan and start nothing.", flag="dry-run")


LAYERS = ["profile", "environment", "arguments", "flags"]


class Layers:
    """Gives the same settings through any of the sources."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = tmp_path / "profile.yaml"
        self._monkeypatch = monkeypatch
        self._arguments: dict[str, Any] = {}
        self._argv: list[str] = []

    def give(self, layer: str, key: str, value: int) -> None:
        leaf = schema_of().leaves[key]
        if layer == "profile":
            self._file.write_text(yaml.safe_dump({leaf.group: {leaf.name: value}}), encoding="utf-8")
            self._argv += ["--profile", str(self._file)]
        elif layer == "environment":
            self._monkeypatch.setenv(leaf.variable, str(value))
        elif layer == "arguments":
            self._arguments[key] = value
        else:
            self._argv += [leaf.flag, str(value)]

    def load(self) -> Settings:
        return load(self._arguments, argv=self._argv)


@pytest.fixture
def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layers:
    return Layers(tmp_path, monkeypatch)


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_wins_over_the_default(layer: str, layers: Layers) -> None:
    layers.give(layer, "vllm.max_num_seqs", 7)
    assert layers.load().vllm.max_num_seqs == 7


@pytest.mark.parametrize(("low", "high"), list(itertools.combinations(LAYERS, 2)))
def test_a_higher_layer_wins_over_a_lower_one(low: str, high: str, layers: Layers) -> None:
    layers.give(low, "vllm.max_num_seqs", 7)
    layers.give(high, "vllm.max_num_seqs", 9)
    assert layers.load().vllm.max_num_seqs == 9


def test_layers_are_merged_setting_by_setting_within_a_group(layers: Layers) -> None:
    keys = ["vllm.max_num_seqs", "vllm.seed", "vllm.max_model_len", "vllm.max_num_queued_reqs"]
    for value, (layer, key) in enumerate(zip(LAYERS, keys, strict=True), start=21):
        layers.give(layer, key, value)
    vllm = layers.load().vllm
    assert (vllm.max_num_seqs, vllm.seed, vllm.max_model_len, vllm.max_num_queued_reqs) == (21, 22, 23, 24)


def test_the_last_of_two_equal_flags_wins_in_either_spelling() -> None:
    loaded = load(argv=["--max-model-len", "32", "--vllm.max-model-len", "64"])
    assert loaded.vllm.max_model_len == 64
    assert load(argv=["--vllm.max-model-len", "64", "--max-model-len=32"]).vllm.max_model_len == 32


def test_the_text_null_takes_back_what_a_lower_layer_set(variables: Callable[[dict[str, str]], None]) -> None:
    assert load(argv=[]).vllm.max_model_len == 8192
    assert load(argv=["--max-model-len", "null"]).vllm.max_model_len is None
    assert load({"vllm.max_model_len": "null"}).vllm.max_model_len is None
    variables({"VLLM__MAX_MODEL_LEN": "null"})
    assert load(argv=[]).vllm.max_model_len is None


# --- every source -----------------------------------------------------------------------------------------------------


def sample(leaf: Leaf) -> tuple[list[str], Any]:
    """Words that give ``leaf`` a value after its flag, and the value as the flags hand it on."""
    if leaf.kind is bool:
        return [], True
    return (["a=1"], {"a": 1}) if leaf.kind is dict else (["16"], "16")


@pytest.mark.parametrize("leaf", list(schema_of().leaves.values()), ids=lambda leaf: leaf.key)
def test_every_setting_has_a_flag_in_its_short_and_its_dotted_form(leaf: Leaf) -> None:
    words, value = sample(leaf)
    for flag in (leaf.flag, leaf.dotted_flag):
        flags = Flags(Settings, [flag, *words])
        assert flags() == ({leaf.group: {leaf.name: value}} if leaf.group else {leaf.name: value})
        assert flags.mistakes == []


def test_a_boolean_has_a_flag_for_each_of_its_values() -> None:
    assert load(argv=["--no-enforce-eager"]).vllm.enforce_eager is False
    assert load(argv=["--enforce-eager", "--profile", "null"]).vllm.enforce_eager is True
    assert load(argv=["--no-vllm.enable-prefix-caching"]).vllm.enable_prefix_caching is False


def test_arguments_may_be_nested_or_dotted_and_hold_text() -> None:
    loaded = load({"vllm": {"max_model_len": "8192"}, "vllm.seed": "3", "rehearse": "true", "server": {"port": 9000}})
    assert (loaded.vllm.max_model_len, loaded.vllm.seed, loaded.rehearse, loaded.server.port) == (8192, 3, True, 9000)


def test_an_empty_variable_counts_as_not_set(variables: Callable[[dict[str, str]], None]) -> None:
    variables({"VLLM__QUANTIZATION": "", "MODEL": ""})
    assert load().model == "demo"


def test_variables_that_kubernetes_makes_of_a_service_are_no_settings(
    variables: Callable[[dict[str, str]], None],
) -> None:
    variables(
        {
            "SERVICE_HOST": "10.0.0.1",
            "SERVICE_PORT": "8000",
            "SERVICE_PORT_HTTP": "8000",
            "PORT": "tcp://10.0.0.1:8000",
            "PORT_8000_TCP": "tcp://10.0.0.1:8000",
            "PORT_8000_TCP_ADDR": "10.0.0.1",
            "HEAD_SVC_SERVICE_HOST": "10.0.0.2",
            "HEAD_SVC_PORT": "tcp://10.0.0.2:6379",
        }
    )
    assert load() == load({"profile": "demo"})


def test_a_subclass_may_add_a_flag_of_its_own() -> None:
    assert load(argv=["--dry-run"], settings_class=WithDryRun).dry_run is True
    assert load(argv=[], settings_class=WithDryRun).dry_run is False
    with pytest.raises(UsageError, match=r"^unknown flag '--dry-run'"):
        load(argv=["--dry-run"])


def test_without_a_command_line_the_flags_of_the_process_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["serve", "run", "--port", "9"])
    assert load().server.port == 8000


# --- engine arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("block_size=32", {"block_size": 32}),
        ("ratio=0.5", {"ratio": 0.5}),
        ("on=true", {"on": True}),
        ("none=null", {"none": None}),
        ("name=fp8_e5m2", {"name": "fp8_e5m2"}),
        ("quoted='32'", {"quoted": "32"}),
        ("equals=a=b", {"equals": "a=b"}),
        ("commas=a,b", {"commas": "a,b"}),
        ("list=[1, two]", {"list": [1, "two"]}),
        ('compilation_config={"mode":0}', {"compilation_config": {"mode": 0}}),
        ('two={"a":{"b":[1,2]},"c":"x,y"}', {"two": {"a": {"b": [1, 2]}, "c": "x,y"}}),
        ("japanese=こんにちは", {"japanese": "こんにちは"}),
    ],
)
def test_an_engine_value_is_read_as_yaml_or_json(
    text: str, value: dict[str, Any], variables: Callable[[dict[str, str]], None]
) -> None:
    key, _, written = text.partition("=")
    assert load(argv=["--engine", text]).engine == value
    assert load({f"engine.{key}": written}).engine == value
    variables({f"ENGINE__{key.upper()}": written})
    assert load().engine == value


def test_engine_flags_repeat_and_the_last_of_a_key_wins() -> None:
    assert load(argv=["--engine", "a=1", "--engine", "b=2", "--engine", "a=3"]).engine == {"a": 3, "b": 2}


def test_engine_arguments_of_all_layers_are_merged(variables: Callable[[dict[str, str]], None], tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("engine: {a: 1, b: 1, c: 1, d: 1}", encoding="utf-8")
    variables({"ENGINE": "{b: 2, c: 2, d: 2}", "ENGINE__E": "2"})
    loaded = load({"engine": {"c": 3, "d": 3}}, argv=["--profile", str(tmp_path / "p.yaml"), "--engine", "d=4"])
    assert loaded.engine == {"a": 1, "b": 2, "c": 3, "d": 4, "e": 2}


def test_loading_imports_no_engine_and_importing_reads_no_environment() -> None:
    code = (
        "import os, sys; os.environ['MISTRAL_SERVE_JUNK'] = '1'; import deploy.loading; "
        "del os.environ['MISTRAL_SERVE_JUNK']; deploy.loading.load(argv=[]); "
        "print(sorted({'ray', 'vllm', 'torch', 'transformers'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert ran.stdout == "[]\n"


def test_a_bare_off_in_a_profile_or_an_argument_is_the_word(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("gateway: {keys: off}\n")
    assert load(argv=["--profile", str(tmp_path / "p.yaml")]).gateway.keys == "off"
    assert load({"guard": {"safe_prompt": False}}).guard.safe_prompt == "off"
