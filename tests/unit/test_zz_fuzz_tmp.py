"""Prevents a setting that a lower source wins, a mistake that is swallowed, and a mistake that ends in a traceback."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deploy.errors import UsageError
from deploy.flags import Flags
from deploy.loading import load
from deploy.schema import Leaf, schema_of
from deploy.settings import ENV_PREFIX, Settings, option

ROOT = Path(__file__).resolve().parents[2]


class WithDryRun(Settings):
    dry_run: bool = option(False, "Print the plan and start nothing.", flag="dry-run")


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    def set_all(values: dict[str, str]) -> None:
        for name, value in values.items():
            monkeypatch.setenv(ENV_PREFIX + name, value)

    return set_all


def refusal(arguments: dict[str, Any] | None = None, **keywords: Any) -> str:
    with pytest.raises(UsageError) as caught:
        load(arguments, **keywords)
    return str(caught.value)


# --- precedence -------------------------------------------------------------------------------------------------------

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
    assert refusal(argv=["--dry-run"]).startswith("unknown flag '--dry-run'")


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


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max-modl-len", "8"], "unknown flag '--max-modl-len': the nearest known one is --max-model-len"),
        (["--max_model_len=8"], "unknown flag '--max_model_len': the nearest known one is --max-model-len"),
        (["--mod", "x"], "unknown flag '--mod': the nearest known one is --model"),
        (["--enforce"], "unknown flag '--enforce': the nearest known one is --enforce-eager"),
        (["-p", "8"], "unknown flag '-p': the nearest known one is --port"),
        (["--vllm", '{"seed": 1}'], "--vllm is a group: give --vllm.NAME"),
        (["mistral"], "unexpected argument 'mistral': settings are given as flags, like --model MODEL"),
        (["--port"], "--port needs a value"),
        (["--model", "--port", "8000"], "--model needs a value"),
        (["--enforce-eager=yes"], "--enforce-eager takes no value: write --enforce-eager or --no-enforce-eager alone"),
        (["--port", "0"], "--port is '0': give a whole number from 1 to 65535"),
        (["--server.port", "70000"], "--port is '70000': give a whole number from 1 to 65535"),
        (["--max-model-len", "8k"], "--max-model-len is '8k': give a whole number from 16 to 10000000 tokens"),
        (["--max-model-len", "99.5"], "--max-model-len is '99.5': give a whole number from 16 to 10000000 tokens"),
        (["--seed", "-1"], "--seed is '-1': give a whole number from 0 to 2147483647"),
        (["--kv-cache-gib", "nan"], "--kv-cache-gib is 'nan': give a number above 0 and at most 4096 GiB"),
        (["--gpu-memory-utilization", "0"], "--gpu-memory-utilization is '0': give a number above 0 and at most 1"),
        (["--dtype", "fp8"], "--dtype is 'fp8': give one of auto, bfloat16, float16, float32"),
        (["--model", ""], "--model is '': give text of at least 1 character"),
        (["--model", "null"], "--model is null: give text of at least 1 character"),
        (["--engine", "x"], "--engine is 'x': write KEY=VALUE"),
        (["--engine", "=1"], "--engine is '=1': write KEY=VALUE"),
        (["--engine", "x="], "--engine is 'x=': write KEY=VALUE"),
        (
            ["--engine", "x={a"],
            "--engine x is '{a', line 1: malformed YAML, expected ',' or '}', but got '<stream end>'",
        ),
        (["--engine", "x=2024-01-01"], "--engine x is '2024-01-01', which JSON cannot hold: put text in quotes"),
        (["--engine", "dtype=auto"], "engine argument 'dtype' has a setting of its own: use vllm.dtype"),
        (
            ["--replicas", "2", "--max-replicas", "3"],
            "replicas (2) excludes min_replicas and max_replicas: give a fixed number or a range",
        ),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_sentence(argv: list[str], message: str) -> None:
    assert refusal(argv=argv) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modle": "x"}, "unknown argument 'modle': the nearest known one is model"),
        ({"max_model_len": "8"}, "unknown argument 'max_model_len': the nearest known one is vllm.max_model_len"),
        ({"vllm": {"max_len": 8}}, "unknown argument 'vllm.max_len': the nearest known one is vllm.max_model_len"),
        ({"vllm": "auto"}, "vllm is a group: give vllm.NAME"),
        ({"server.port": "0"}, "server.port is '0': give a whole number from 1 to 65535"),
        ({"server": {"port": 8000.5}}, "server.port is 8000.5: give a whole number from 1 to 65535"),
        ({"vllm": {"seed": [1]}}, "vllm.seed is [1]: give a whole number from 0 to 2147483647"),
        ({"model": 7}, "model is 7: give text of at least 1 character, in quotes"),
        ({"model": True}, "model is true: give text of at least 1 character, in quotes"),
        ({"engine": [1]}, "engine is [1]: give argument names with their values"),
        ({"engine": None}, "engine is null: give argument names with their values"),
        ({"engine": {1: 2}}, "engine is {1: 2}: give argument names with their values"),
        ({"profile": 3}, "profile is 3: give text of at least 1 character, in quotes"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_sentence(arguments: dict[str, Any], message: str) -> None:
    assert refusal(arguments) == message


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "PORT",
            "8000",
            "unknown environment variable 'MISTRAL_SERVE_PORT': the nearest known one is MISTRAL_SERVE_SERVER__PORT",
        ),
        (
            "VLLM_DTYPE",
            "auto",
            "unknown environment variable 'MISTRAL_SERVE_VLLM_DTYPE': the nearest known one is "
            "MISTRAL_SERVE_VLLM__DTYPE",
        ),
        ("SERVER__PORT", "0", "MISTRAL_SERVE_SERVER__PORT is '0': give a whole number from 1 to 65535"),
        ("VLLM", "{}", "MISTRAL_SERVE_VLLM is a group: give MISTRAL_SERVE_VLLM__NAME"),
        (
            "ENGINE",
            "{a",
            "MISTRAL_SERVE_ENGINE is '{a', line 1: malformed YAML, expected ',' or '}', but got '<stream end>'",
        ),
        (
            "ENGINE__A",
            "]",
            "MISTRAL_SERVE_ENGINE__A is ']', line 1: malformed YAML, expected the node content, but found ']'",
        ),
    ],
)
def test_a_wrong_variable_is_refused_in_one_sentence(
    variable: str, value: str, message: str, variables: Callable[[dict[str, str]], None]
) -> None:
    variables({variable: value})
    assert refusal() == message


def test_several_mistakes_are_named_together_in_the_order_of_the_sources(
    variables: Callable[[dict[str, str]], None], tmp_path: Path
) -> None:
    (tmp_path / "p.yaml").write_text("modle: x\nvllm: {dtype: fp8}", encoding="utf-8")
    variables({"SEED": "1", "VLLM__SEED": "-1"})
    profile = str(tmp_path / "p.yaml")
    assert refusal({"scaling.replica": 1}, argv=["--prot", "1", "--port", "0", "--profile", profile]).split("; ") == [
        "unknown flag '--prot': the nearest known one is --port",
        "unknown argument 'scaling.replica': the nearest known one is scaling.replicas",
        "unknown environment variable 'MISTRAL_SERVE_SEED': the nearest known one is MISTRAL_SERVE_VLLM__SEED",
        f"unknown key 'modle' in profile {profile}: the nearest known one is model",
        "--port is '0': give a whole number from 1 to 65535",
        f"vllm.dtype in profile {profile} is 'fp8': give one of auto, bfloat16, float16, float32",
        "MISTRAL_SERVE_VLLM__SEED is '-1': give a whole number from 0 to 2147483647",
    ]


def test_a_long_value_is_shortened_in_the_sentence() -> None:
    message = refusal(argv=["--port", "x" * 5000])
    assert message.startswith("--port is 'xxx")
    assert len(message) < 200


# --- help -------------------------------------------------------------------------------------------------------------


def help_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as caught:
        load(argv=["--help"], settings_class=WithDryRun)
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_help_names_every_setting_with_its_description_bounds_and_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = " ".join(help_text(capsys, monkeypatch).split())
    for leaf in schema_of(WithDryRun).leaves.values():
        assert f" {leaf.flag}" in words
        bounds = f"{leaf.allowed}; " if leaf.kind in (int, float) else ""
        assert f"{leaf.description} [{bounds}default: {leaf.default}]" in words


def test_help_is_grouped_and_at_most_100_columns_wide(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = help_text(capsys, monkeypatch).splitlines()
    titles = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    groups = ["server options:", "scaling options:", "hardware options:", "vllm options:", "log options:"]
    assert titles == ["options:", *groups]
    assert max(map(len, lines)) <= 100


def test_help_shows_the_shortest_flag_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = help_text(capsys, monkeypatch)
    assert "  --max-model-len TOKENS " in text
    assert "  --vllm.max-model-len" not in text
    assert "  --enforce-eager, --no-enforce-eager\n" in text
    assert "  --device {auto,cpu,gpu} " in text
    assert "  --engine KEY=VALUE " in text
    assert "usage: serve.py [--model MODEL] [FLAG ...]\n" in text


# --- what must never happen -------------------------------------------------------------------------------------------


def test_loading_imports_no_engine_and_importing_reads_no_environment() -> None:
    code = (
        "import os, sys; os.environ['MISTRAL_SERVE_JUNK'] = '1'; import deploy.loading; "
        "del os.environ['MISTRAL_SERVE_JUNK']; deploy.loading.load(argv=[]); "
        "print(sorted({'ray', 'vllm', 'torch', 'transformers'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert ran.stdout == "[]\n"


JUNK = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
KEYS = st.sampled_from([*schema_of().leaves, *schema_of().groups, "engine.x"]) | JUNK
FLAGS = st.sampled_from([flag for leaf in schema_of().leaves.values() for flag in (leaf.flag, leaf.dotted_flag)])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | JUNK
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(JUNK | KEYS, inner, max_size=3)
)
NOT_PLAIN = ("pydantic", "https://", "Traceback", "extra_forbidden", "\n")

bounded = settings(
    max_examples=2500, deadline=None, derandomize=False, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def loads_or_is_refused(arguments: dict[str, Any] | None = None, **keywords: Any) -> None:
    try:
        loaded = load(arguments, **keywords)
    except UsageError as error:
        message = str(error)
    else:
        message = "fine"
        assert isinstance(loaded, Settings)
    assert message
    assert [word for word in NOT_PLAIN if word in message] == []


@bounded
@given(st.lists(FLAGS | JUNK | st.builds("{}={}".format, FLAGS, JUNK), max_size=5))
@example(["--engine", "x=&a [*a]"])
@example(["--engine", "x=!!bool maybe"])
@example(["--engine", "x=!!timestamp never"])
@example(["--engine", "x=!!map [1]"])
@example(["--engine", "x=" + "[" * 5000])
@example(["--engine", "x=" + "9" * 5000])
@example(["--port", "9" * 5000])
@example(["--model", "\udcff"])
@example(["--", "--port", "1"])
@example(["-hx"])
def test_any_command_line_loads_or_is_refused(argv: list[str]) -> None:
    if not {"-h", "--help"} & set(argv):
        loads_or_is_refused(argv=argv)


@bounded
@given(st.dictionaries(KEYS, VALUES, max_size=4))
@example({"engine": {"x": float("nan")}, "vllm": {"seed": 2**70}})
@example({"server.port": 16**9000, "vllm.seed": [16**9000]})
def test_any_arguments_load_or_are_refused(arguments: dict[str, Any]) -> None:
    loads_or_is_refused(arguments)


@bounded
@given(JUNK | st.text(max_size=40) | st.dictionaries(KEYS, VALUES, max_size=4).map(yaml.safe_dump))
@example("&a {engine: *a}")
@example("vllm: &a {dtype: *a}")
@example("? [1]\n: 2")
@example("{" * 5000)
@example("vllm: {seed: 0x" + "f" * 9000 + "}")
@example("<<: {model: x}\n<<: {model: y}")
def test_any_profile_loads_or_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "junk.yaml"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    loads_or_is_refused(argv=["--profile", str(path)])


@bounded
@given(st.sampled_from([leaf.variable for leaf in schema_of().leaves.values()]), JUNK)
def test_any_variable_loads_or_is_refused(variable: str, value: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable, value.replace("\0", ""))
        loads_or_is_refused()
