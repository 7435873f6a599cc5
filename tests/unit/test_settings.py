"""Prevents settings that --help and the reference page cannot explain, or that contradict each other in silence."""

from typing import Any

import pytest
from annotated_types import Ge, Gt, Le
from pydantic import ValidationError

from deploy.schema import Leaf, schema_of
from deploy.settings import Settings

LEAVES = list(schema_of().leaves.values())
every_leaf = pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.key)

CONTRACT_FLAGS = {
    "--profile": "profile",
    "--model": "model",
    "--revision": "revision",
    "--served-model-name": "served_model_name",
    "--rehearse": "rehearse",
    "--engine": "engine",
    "--host": "server.host",
    "--port": "server.port",
    "--replicas": "scaling.replicas",
    "--min-replicas": "scaling.min_replicas",
    "--max-replicas": "scaling.max_replicas",
    "--max-model-len": "vllm.max_model_len",
    "--tensor-parallel-size": "vllm.tensor_parallel_size",
    "--quantization": "vllm.quantization",
    "--dtype": "vllm.dtype",
    "--load-format": "vllm.load_format",
}


@every_leaf
def test_every_setting_is_described_in_a_sentence(leaf: Leaf) -> None:
    assert leaf.description[0].isupper() or leaf.description.startswith("vLLM")
    assert leaf.description[-1] in ".…"


@every_leaf
def test_every_number_has_a_lower_and_an_upper_bound(leaf: Leaf) -> None:
    if leaf.kind in (int, float):
        kinds = {type(bound) for bound in leaf.field.metadata}
        assert kinds in ({Ge, Le}, {Gt, Le})


@every_leaf
def test_no_text_may_be_empty(leaf: Leaf) -> None:
    if leaf.kind is str:
        assert leaf.bounds == "of at least 1 character"


@every_leaf
def test_a_default_of_none_says_what_it_comes_to(leaf: Leaf) -> None:
    assert leaf.default != "not set"


@every_leaf
def test_a_name_that_ends_in_a_unit_has_that_unit(leaf: Leaf) -> None:
    suffixes = {"s": "s", "gib": "GiB"}
    assert leaf.unit == suffixes.get(leaf.name.rpartition("_")[2], leaf.unit)


def test_no_two_settings_share_a_flag_or_a_variable() -> None:
    flags = [flag for leaf in LEAVES for flag in {leaf.flag, leaf.dotted_flag}]
    assert len(flags) == len(set(flags))
    assert len({leaf.variable for leaf in LEAVES}) == len(LEAVES)


@pytest.mark.parametrize(("flag", "key"), CONTRACT_FLAGS.items())
def test_every_flag_of_the_contract_exists(flag: str, key: str) -> None:
    assert schema_of().leaves[key].flag == flag


def test_a_leaf_spells_its_key_for_every_source() -> None:
    leaf = schema_of().leaves["vllm.max_model_len"]
    assert (leaf.group, leaf.name) == ("vllm", "max_model_len")
    assert (leaf.flag, leaf.dotted_flag) == ("--max-model-len", "--vllm.max-model-len")
    assert leaf.variable == "MISTRAL_SERVE_VLLM__MAX_MODEL_LEN"
    assert leaf.allowed == "a whole number from 16 to 10000000 tokens"
    assert (leaf.unit, leaf.default, leaf.kind) == ("tokens", "the model's own limit", int)


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("model", "text of at least 1 character"),
        ("rehearse", "true or false"),
        ("cache_dir", "a path"),
        ("engine", "argument names with their values"),
        ("vllm.dtype", "one of auto, bfloat16, float16, float32"),
        ("vllm.gpu_memory_utilization", "a number above 0 and at most 1"),
        ("server.drain_timeout_s", "a number from 0 to 3600 s"),
    ],
)
def test_what_is_allowed_is_said_in_words(key: str, allowed: str) -> None:
    assert schema_of().leaves[key].allowed == allowed


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("--max-modl-len", "vllm.max_model_len"),
        ("--max_model_len", "vllm.max_model_len"),
        ("port", "server.port"),
        ("MISTRAL_SERVE_PORT", "server.port"),
        ("MISTRAL_SERVE_VLLM_MAX_MODEL_LEN", "vllm.max_model_len"),
        ("scaling.replica", "scaling.replicas"),
        ("modle", "model"),
    ],
)
def test_a_misspelt_name_is_nearest_to_the_one_that_was_meant(word: str, key: str) -> None:
    assert schema_of().nearest(word).key == key


def test_settings_are_frozen_at_both_levels() -> None:
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.model = "other"
    with pytest.raises(ValidationError, match="frozen"):
        settings.vllm.max_num_seqs = 1


@pytest.mark.parametrize("given", [{"modle": "x"}, {"vllm": {"max_len": 1}}])
def test_an_unknown_key_is_never_dropped(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Settings(**given)


def test_settings_rebuilt_from_their_dump_ignore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(model="x", engine={"block_size": 32})
    monkeypatch.setenv("MISTRAL_SERVE_ENGINE__SWAP_SPACE", "4")
    monkeypatch.setenv("MISTRAL_SERVE_VLLM__DTYPE", "float16")
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        (
            {"replicas": 2, "max_replicas": 4},
            "replicas (2) excludes min_replicas and max_replicas: give a fixed number or a range",
        ),
        ({"max_replicas": 4}, "autoscaling needs both bounds: give min_replicas too"),
        ({"min_replicas": 4}, "autoscaling needs both bounds: give max_replicas too"),
        ({"min_replicas": 4, "max_replicas": 2}, "min_replicas (4) cannot exceed max_replicas (2)"),
    ],
)
def test_contradicting_numbers_of_replicas_are_refused_with_both(scaling: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"scaling": scaling})
    assert str(caught.value.errors()[0]["ctx"]["error"]) == message


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [({}, (1, 1, False)), ({"replicas": 3}, (3, 3, False)), ({"min_replicas": 2, "max_replicas": 5}, (2, 5, True))],
)
def test_least_and_most_replicas_follow_from_either_way_to_scale(
    scaling: dict[str, int], expected: tuple[int, int, bool]
) -> None:
    built = Settings.model_validate({"scaling": scaling}).scaling
    assert (built.least_replicas, built.most_replicas, built.autoscaling) == expected


@pytest.mark.parametrize(
    ("vllm", "scaling", "target"),
    [({}, {}, 64.0), ({"max_num_seqs": 1}, {}, 1.0), ({}, {"target_ongoing_requests": 8}, 8.0)],
)
def test_autoscaling_aims_at_half_of_what_a_replica_decodes_at_once(
    vllm: dict[str, int], scaling: dict[str, float], target: float
) -> None:
    settings = Settings.model_validate({"vllm": vllm, "scaling": scaling})
    assert settings.target_ongoing_requests == target


@pytest.mark.parametrize(
    ("key", "own"),
    [("max_model_len", "vllm.max_model_len"), ("model", "model"), ("kv_cache_memory_bytes", "vllm.kv_cache_gib")],
)
def test_an_engine_argument_with_a_setting_of_its_own_is_refused(key: str, own: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(engine={key: 1})
    message = f"engine argument {key!r} has a setting of its own: use {own}"
    assert str(caught.value.errors()[0]["ctx"]["error"]) == message


def test_the_schema_lists_every_group_and_every_leaf() -> None:
    schema = schema_of()
    assert list(schema.groups) == [
        "server",
        "tls",
        "gateway",
        "limits",
        "quotas",
        "admission",
        "guard",
        "usage",
        "scaling",
        "hardware",
        "vllm",
        "log",
        "tracing",
    ]
    assert all(schema.groups.values())
    flat = {key for key, value in Settings().model_dump().items() if not isinstance(value, dict) or key == "engine"}
    nested = {f"{group}.{name}" for group in schema.groups for name in Settings().model_dump()[group]}
    assert set(schema.leaves) == flat | nested
