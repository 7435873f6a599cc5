"""Prevents a shipped YAML file that nobody loads, that cannot be loaded, or that is chosen for the wrong model."""

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import profiles
from deploy.errors import UsageError
from deploy.loading import load
from deploy.machine import Machine
from deploy.model import inspect
from deploy.plan import make_plan
from deploy.plan.sizes import GIB
from deploy.schema import schema_of
from loadtest import _workload

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [
    "demo",
    "mistral-7b-4bit",
    "mistral-7b-4bit-awq",
    "mistral-7b-autoscale",
    "mistral-7b-instruct-v0.3",
    "mistral-7b-tp2",
    "mistral-7b-v0.1",
]
every_profile = pytest.mark.parametrize("name", profiles.shipped())


def leaves_of(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if key in schema_of().groups:
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            yield key, value


def load_profile(path: Path) -> None:
    assert load(argv=["--profile", path.stem]).profile == path.stem


def load_serve_config(path: Path) -> None:
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    (application,) = config["applications"]
    assert application["import_path"] == "deploy.app:build_app"
    assert load(application["args"]).profile == "demo"


def rendered_with_helm(path: Path) -> None:
    """The chart and every values file of it are rendered, and their results checked, by tests/chart."""
    assert (path.parent / "Chart.yaml").exists() or path.parent.name in {"ci", "templates", "tests"}


def load_workload(path: Path) -> None:
    assert _workload.load(str(path))


# What loads each YAML file of the repository; the first rule that matches its path counts.
RULES: dict[str, Callable[[Path], None]] = {
    "configs/serve.yaml": load_serve_config,
    "configs/*.yaml": load_profile,
    "helm/*.yaml": rendered_with_helm,
    "loadtest/workloads/*.yaml": load_workload,
    "tests/bench/generators/workload.yaml": load_workload,
}


def yaml_files() -> list[str]:
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.yaml", "*.yml"]
    found = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    return sorted(name for name in set(found) if (ROOT / name).exists())


@pytest.mark.parametrize("name", yaml_files())
def test_every_yaml_file_of_the_repository_is_loaded_by_what_reads_it(name: str) -> None:
    rules = [check for pattern, check in RULES.items() if fnmatch(name, pattern)]
    assert rules, f"{name}: add a rule that says what reads this file"
    rules[0](ROOT / name)


def test_the_listing_finds_every_profile() -> None:
    assert set(yaml_files()) >= {f"configs/{name}.yaml" for name in [*SHIPPED, "serve"]}


def test_the_shipped_profiles_are_listed_by_name() -> None:
    assert profiles.shipped() == SHIPPED


@every_profile
def test_a_profile_holds_only_what_differs_from_the_defaults(name: str) -> None:
    defaults = schema_of().leaves
    same = [key for key, value in leaves_of(profiles.read(name)) if defaults[key].field.default == value]
    assert same == []


@every_profile
def test_a_profile_reaches_the_settings_value_by_value(name: str) -> None:
    dumped = load({"profile": name}).model_dump()
    for key, value in leaves_of(profiles.read(name)):
        group, _, leaf = key.rpartition(".")
        assert (dumped[group] if group else dumped)[leaf] == value


@pytest.mark.parametrize(
    ("arguments", "profile"),
    [
        ({}, "demo"),
        ({"model": "demo"}, "demo"),
        ({"model": "demo", "rehearse": True}, None),
        ({"rehearse": "yes"}, None),
        ({"rehearse": "false"}, "demo"),
        ({"model": "mistralai/Mistral-7B-v0.1"}, "mistral-7b-v0.1"),
        ({"model": "mistralai/Mistral-7B-v0.1", "rehearse": True}, "mistral-7b-v0.1"),
        ({"model": "mistralai/Mistral-7B-Instruct-v0.3"}, "mistral-7b-instruct-v0.3"),
        ({"model": "mistralai/Mistral-7B-Instruct-v0.2"}, None),
        ({"model": "somebody/Mistral-7B-v0.1"}, None),
        ({"model": "/models/demo"}, None),
        ({"model": "./mistral-7b-v0.1"}, None),
        ({"model": "mistral-7b-autoscale"}, None),
        ({"model": "TheBloke/Mistral-7B-v0.1-AWQ"}, None),
        ({"model": "serve"}, None),
        ({"model": "demo", "profile": "mistral-7b-v0.1"}, "mistral-7b-v0.1"),
        ({"profile": "null"}, None),
    ],
)
def test_without_a_choice_the_profile_made_for_the_model_is_taken(
    arguments: dict[str, Any], profile: str | None
) -> None:
    assert load(arguments).profile == profile


def test_every_model_of_mistrals_own_that_a_profile_names_has_exactly_one_profile_made_for_it() -> None:
    models = {load({"profile": name}).model for name in SHIPPED} - {"TheBloke/Mistral-7B-v0.1-AWQ"}
    assert Counter(profiles.made_for(model) for model in models) == {
        "demo": 1,
        "mistral-7b-instruct-v0.3": 1,
        "mistral-7b-v0.1": 1,
    }


def test_a_profile_may_name_the_model_and_a_flag_may_change_it() -> None:
    assert load(argv=["--profile", "mistral-7b-v0.1"]).model == "mistralai/Mistral-7B-v0.1"
    changed = load(argv=["--profile", "mistral-7b-v0.1", "--model", "./finetuned"])
    assert (changed.model, changed.vllm.dtype) == ("./finetuned", "bfloat16")


def test_the_autoscaled_profile_starts_replicas_before_the_first_is_full() -> None:
    settings = load({"profile": "mistral-7b-autoscale"})
    assert (settings.scaling.least_replicas, settings.scaling.most_replicas) == (1, 4)
    assert settings.target_ongoing_requests < settings.vllm.max_num_seqs / 2


def test_the_autoscaled_profile_is_the_plain_one_with_replicas() -> None:
    plain, scaled = load({"profile": "mistral-7b-v0.1"}), load({"profile": "mistral-7b-autoscale"})
    assert scaled.model_copy(update={"profile": plain.profile, "scaling": plain.scaling}) == plain


def test_the_4_bit_profiles_differ_from_the_plain_one_in_weights_and_gpu_alone() -> None:
    plain, nf4, awq = (load({"profile": f"mistral-7b-{name}"}) for name in ("v0.1", "4bit", "4bit-awq"))
    smaller = plain.hardware.model_copy(update={"gpu_memory_gib": 11.17})
    vllm = plain.vllm.model_copy(update={"quantization": "bitsandbytes", "load_format": "bitsandbytes"})
    assert nf4 == plain.model_copy(update={"profile": nf4.profile, "hardware": smaller, "vllm": vllm})
    vllm = plain.vllm.model_copy(update={"quantization": "awq", "dtype": "auto"})
    assert awq == plain.model_copy(
        update={"profile": awq.profile, "model": "TheBloke/Mistral-7B-v0.1-AWQ", "hardware": smaller, "vllm": vllm}
    )


def planned(*argv: str) -> dict[str, Any]:
    """The plan of a profile where there is no GPU."""
    settings = load(argv=["--profile", *argv])
    machine = Machine(cores=(0, 1), memory_bytes=24 * GIB, free_memory_bytes=20 * GIB, gpus=())
    return make_plan(settings, inspect(settings), machine, starting=False).as_dict()


LINEAR, KEPT = 6_979_588_096, 262_144_000
"""Weights of Mistral-7B-v0.1: what is quantised, with the norms; and embeddings with the output head, which are not."""


@pytest.mark.parametrize(
    ("argv", "weights", "sequences"),
    [
        (["mistral-7b-v0.1"], 2 * (LINEAR + KEPT), 5.36),
        (["mistral-7b-4bit"], int(0.5625 * LINEAR) + 2 * KEPT, 4.64),
        (["mistral-7b-4bit-awq", "--model", "mistralai/Mistral-7B-v0.1"], int(0.51953125 * LINEAR) + 2 * KEPT, 4.92),
        (["mistral-7b-tp2"], 2 * (LINEAR + KEPT), 10.9),
    ],
)
def test_a_gpu_profile_fits_the_gpus_it_names(argv: list[str], weights: int, sequences: float) -> None:
    plan = planned(*argv)
    assert plan["model"]["weights_bytes"] == weights
    assert plan["kv_cache"]["sequences_of_max_model_len"] == sequences


def test_the_two_gpu_profile_halves_weights_and_kv_cache_on_each_gpu() -> None:
    plan = planned("mistral-7b-tp2")
    assert plan["replicas"]["gpus_per_replica"] == 2
    assert plan["memory"]["each_gpu"]["weights_bytes"] == LINEAR + KEPT
    assert plan["kv_cache"]["budget_bytes"] == 2 * plan["memory"]["each_gpu"]["kv_cache_bytes"]
    with pytest.raises(UsageError, match="spread it with tensor_parallel_size"):
        planned("mistral-7b-tp2", "--tensor-parallel-size", "1")


def documented() -> list[list[str]]:
    """The rows of the table of profiles in docs/gpu.md."""
    lines = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `mistral-7b")]
    return [row for row in rows if len(row) == 6]


def test_the_documented_figures_of_a_gpu_profile_are_those_of_its_plan() -> None:
    rows = {row[0].strip("`"): row[2:] for row in documented()}
    assert set(rows) == set(SHIPPED) - {"demo"}
    for name, figures in rows.items():
        model = ["--model", "mistralai/Mistral-7B-v0.1"] if name == "mistral-7b-4bit-awq" else []
        plan = planned(name, *model)
        gpu = plan["memory"]["each_gpu"]
        sequences = f"{plan['kv_cache']['sequences_of_max_model_len']} × {plan['engine']['max_model_len']}"
        assert figures == [gpu["weights"], gpu["engine"], gpu["kv_cache"], sequences], name


@pytest.mark.parametrize("written", ["my.yaml", "my.yml", "./my", "sub/my"])
def test_a_file_is_a_name_that_ends_in_yaml_or_contains_a_slash(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / written).parent.mkdir(exist_ok=True)
    (tmp_path / written).write_text("vllm: {max_num_seqs: 7}", encoding="utf-8")
    settings = load(argv=["--profile", written])
    assert (settings.profile, settings.vllm.max_num_seqs) == (written, 7)


LIST = ", ".join(SHIPPED)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("vllm:\n  dtype: [auto", "my.yaml, line 2: malformed YAML, expected ',' or ']', but got '<stream end>'"),
        ("model: a\n\tport: 1", "my.yaml, line 2: malformed YAML, found character '\\t' that cannot start any token"),
        ("model: a\nvllm: {}\nmodel: b", "my.yaml, line 3: malformed YAML, the key 'model' appears twice"),
        ("model: a\nengine: \x07", "my.yaml, line 2: malformed YAML, the character '\\x07' is not allowed"),
        ("model: !thing a", "my.yaml, line 1: malformed YAML, could not determine a constructor for the tag '!thing'"),
        ("model: 2024-99-99", "my.yaml, line 1: malformed YAML, it holds a value that cannot be read"),
        ("", "my.yaml is not a mapping: write settings as KEY: VALUE"),
        ("- model", "my.yaml is not a mapping: write settings as KEY: VALUE"),
        ("profile: demo", "my.yaml sets profile, which a profile cannot do: remove that line"),
        ("modle: x", "unknown key 'modle' in profile my.yaml: the nearest known one is model"),
        (
            "vllm: {max_len: 1}",
            "unknown key 'vllm.max_len' in profile my.yaml: the nearest known one is vllm.max_model_len",
        ),
        ("vllm:", "vllm in profile my.yaml is a group: give vllm.NAME"),
        ("1: 2", "unknown key '1' in profile my.yaml: the nearest known one is profile"),
        ("model:", "model in profile my.yaml is null: give text of at least 1 character"),
        ("revision: 3", "revision in profile my.yaml is 3: give text of at least 1 character, in quotes"),
        ("server: {port: 0}", "server.port in profile my.yaml is 0: give a whole number from 1 to 65535"),
        (
            "scaling: {replicas: true}",
            "scaling.replicas in profile my.yaml is true: give a whole number from 1 to 1000",
        ),
    ],
)
def test_a_wrong_profile_is_refused_in_one_sentence_that_names_file_and_place(
    content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load(argv=["--profile", "my.yaml"])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ("nope", f"unknown profile 'nope': take one of {LIST}, or a YAML file"),
        ("serve", f"unknown profile 'serve': take one of {LIST}, or a YAML file"),
        ("nope.yaml", f"profile 'nope.yaml' does not exist: give a YAML file, or one of {LIST}"),
        ("./", "profile './' cannot be read: Is a directory"),
        ("a\0.yaml", "profile 'a\\x00.yaml' cannot be read: embedded null byte"),
    ],
)
def test_a_missing_profile_is_refused_with_the_ones_there_are(
    profile: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        load(argv=["--profile", profile])
    assert str(caught.value) == message


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("model: é".encode("latin-1"))
    with pytest.raises(UsageError) as caught:
        load(argv=["--profile", str(path)])
    assert str(caught.value) == f"profile '{path}' is not UTF-8 text: save it as such"
