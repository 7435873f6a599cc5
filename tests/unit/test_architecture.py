"""Prevents plans that rest on wrong numbers: a window that is not there, a KV head count misread, a field missed."""

from typing import Any

import pytest

from deploy.architecture import MISTRAL_7B_V01, Architecture, from_hf_config, from_mistral_params, known
from deploy.errors import UsageError

# The published config.json of Mistral-7B-v0.1, as transformers 4 wrote it.
V01_CONFIG: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 32000,
}
# The published params.json of Mistral-7B-Instruct-v0.3.
V03_PARAMS: dict[str, Any] = {
    "dim": 4096,
    "n_layers": 32,
    "head_dim": 128,
    "hidden_dim": 14336,
    "n_heads": 32,
    "n_kv_heads": 8,
    "norm_eps": 1e-05,
    "vocab_size": 32768,
    "rope_theta": 1000000.0,
}


def test_the_published_config_of_v01_reads_as_the_known_architecture() -> None:
    assert from_hf_config(V01_CONFIG) == MISTRAL_7B_V01


def test_mistral_7b_has_7_241_732_096_parameters_and_two_bytes_for_each() -> None:
    assert MISTRAL_7B_V01.parameters == 7_241_732_096
    assert MISTRAL_7B_V01.weight_bytes == 14_483_464_192


def test_transformers_5_spells_dtype_and_layer_types() -> None:
    config = {key: value for key, value in V01_CONFIG.items() if key != "torch_dtype"}
    config |= {"dtype": "bfloat16", "head_dim": 128, "layer_types": ["sliding_attention"] * 32}
    assert from_hf_config(config) == MISTRAL_7B_V01


@pytest.mark.parametrize(
    "change",
    [
        {"sliding_window": None},
        {"use_sliding_window": False},
        {"layer_types": ["sliding_attention", "full_attention"] * 16},
    ],
)
def test_a_window_that_not_every_layer_uses_counts_as_full_attention(change: dict[str, Any]) -> None:
    assert from_hf_config(V01_CONFIG | change).sliding_window is None


def test_a_config_without_dtype_is_float32_and_untied() -> None:
    config = {key: value for key, value in V01_CONFIG.items() if key not in ("torch_dtype", "tie_word_embeddings")}
    assert (from_hf_config(config).dtype, from_hf_config(config).tie_word_embeddings) == ("float32", False)


def test_a_stated_head_dim_wins_over_the_division() -> None:
    assert from_hf_config(V01_CONFIG | {"head_dim": 160}).head_dim == 160


@pytest.mark.parametrize(
    "field",
    [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
    ],
)
def test_a_missing_field_is_named(field: str) -> None:
    config = {key: value for key, value in V01_CONFIG.items() if key != field}
    with pytest.raises(UsageError, match=f"^config.json lacks '{field}': "):
        from_hf_config(config)


@pytest.mark.parametrize("value", [0, -1, "4096", 4096.0, True])
def test_a_value_that_is_no_count_is_shown(value: object) -> None:
    with pytest.raises(UsageError) as error:
        from_hf_config(V01_CONFIG | {"hidden_size": value}, "model/config.json")
    assert str(error.value) == (
        f"model/config.json has 'hidden_size' = {value!r}: it must be a whole number of at least 1"
    )


def test_heads_that_do_not_share_kv_heads_evenly_are_refused() -> None:
    with pytest.raises(UsageError, match="shares 7 KV heads among 32 heads"):
        from_hf_config(V01_CONFIG | {"num_key_value_heads": 7})


def test_a_head_dim_that_cannot_be_computed_is_refused() -> None:
    with pytest.raises(UsageError, match="lacks 'head_dim', and 24 heads do not divide 4096 evenly"):
        from_hf_config(V01_CONFIG | {"num_attention_heads": 24})


def test_a_flag_that_is_no_boolean_is_refused() -> None:
    with pytest.raises(UsageError, match="has 'tie_word_embeddings' = 'no': it must be true or false"):
        from_hf_config(V01_CONFIG | {"tie_word_embeddings": "no"})


def test_the_published_params_of_v03_have_no_window_and_vllms_default_length() -> None:
    assert from_mistral_params(V03_PARAMS) == Architecture(
        name="MistralForCausalLM",
        hidden_size=4096,
        layers=32,
        heads=32,
        kv_heads=8,
        head_dim=128,
        intermediate_size=14336,
        vocab_size=32768,
        max_position_embeddings=128_000,
        sliding_window=None,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )


def test_params_state_a_window_for_all_layers_or_a_list_by_layer() -> None:
    assert from_mistral_params(V03_PARAMS | {"sliding_window": 4096}).sliding_window == 4096
    assert from_mistral_params(V03_PARAMS | {"sliding_window": [None, 4096]}).sliding_window is None


def test_a_missing_field_of_params_is_named() -> None:
    with pytest.raises(UsageError, match=r"^params\.json lacks 'n_kv_heads': "):
        from_mistral_params({key: value for key, value in V03_PARAMS.items() if key != "n_kv_heads"})


@pytest.mark.parametrize(
    ("model", "window", "vocabulary"),
    [
        ("mistralai/Mistral-7B-v0.1", 4096, 32000),
        ("mistralai/Mistral-7B-Instruct-v0.1", 4096, 32000),
        ("mistralai/Mistral-7B-Instruct-v0.2", None, 32000),
        ("mistralai/Mistral-7B-v0.3", None, 32768),
        ("mistralai/Mistral-7B-Instruct-v0.3", None, 32768),
    ],
)
def test_the_public_models_differ_in_window_and_vocabulary(model: str, window: int | None, vocabulary: int) -> None:
    architecture = known(model)
    assert architecture is not None
    assert (architecture.sliding_window, architecture.vocab_size, architecture.layers) == (window, vocabulary, 32)


def test_any_other_id_is_not_known() -> None:
    assert known("mistralai/Mixtral-8x7B-v0.1") is None
