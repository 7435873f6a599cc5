"""Prevents vLLM from mixing the two formats of one model, and downloads of files that nothing reads."""

import pytest

from deploy.errors import UsageError
from deploy.model.formats import Formats, missing_shards, needed_files, resolve, weight_files
from deploy.settings import VllmSettings

HF = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
MISTRAL = ["params.json", "tekken.json", "consolidated.safetensors"]
# The top level of Mistral-7B-Instruct-v0.3 at the hub.
V03 = [
    ".gitattributes",
    "README.md",
    "config.json",
    "consolidated.safetensors",
    "generation_config.json",
    "model-00001-of-00003.safetensors",
    "model-00002-of-00003.safetensors",
    "model-00003-of-00003.safetensors",
    "model.safetensors.index.json",
    "params.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer.model.v3",
    "tokenizer_config.json",
]
ALL_MISTRAL = VllmSettings(config_format="mistral", tokenizer_mode="mistral", load_format="mistral")


def resolved(names: list[str], vllm: VllmSettings | None = None) -> Formats:
    return resolve(names, vllm or VllmSettings(), "DIR")


def refusal(names: list[str], vllm: VllmSettings | None = None) -> str:
    with pytest.raises(UsageError) as error:
        resolved(names, vllm)
    return str(error.value)


def test_hugging_face_files_leave_the_load_format_to_vllm() -> None:
    assert resolved(HF) == Formats("hf", "hf", "auto")


def test_mistrals_files_choose_mistral_everywhere() -> None:
    assert resolved(MISTRAL) == Formats("mistral", "mistral", "mistral")


def test_where_both_formats_lie_auto_takes_hugging_faces_for_all_three() -> None:
    assert resolved(V03) == Formats("hf", "hf", "safetensors")


def test_where_both_formats_lie_mistrals_can_be_asked_for() -> None:
    assert resolved(V03, ALL_MISTRAL) == Formats("mistral", "mistral", "mistral")


def test_mistrals_configuration_takes_mistrals_weights_along() -> None:
    assert resolved(V03, VllmSettings(config_format="mistral")).load_format == "mistral"


def test_a_bare_sentencepiece_file_is_read_by_mistrals_tokenizer() -> None:
    assert resolved(["config.json", "tokenizer.model", "model.safetensors"]).tokenizer_mode == "mistral"


def test_dummy_weights_need_no_weight_files() -> None:
    assert resolved(["config.json", "tokenizer.json"], VllmSettings(load_format="dummy")).load_format == "dummy"


def test_bin_weights_are_accepted() -> None:
    assert resolved(["config.json", "tokenizer.json", "pytorch_model.bin"]) == Formats("hf", "hf", "auto")


def test_what_is_missing_is_told() -> None:
    assert refusal(["tokenizer.json", "model.safetensors"]) == (
        "DIR has neither config.json nor params.json: it does not hold a model vLLM can serve"
    )
    assert refusal(["config.json", "model.safetensors"]) == (
        "DIR lacks a tokenizer (tokenizer.json, tekken.json or tokenizer.model): download it"
    )
    assert refusal(["config.json", "tokenizer.json", "training_args.bin"]) == (
        "DIR has no weights (*.safetensors or *.bin) for load_format 'auto': copy or download them"
    )


def test_an_explicit_format_needs_its_files() -> None:
    assert refusal(HF, VllmSettings(config_format="mistral")) == (
        "DIR lacks params.json, which config_format 'mistral' reads: leave it at 'auto'"
    )
    assert refusal(HF, VllmSettings(tokenizer_mode="mistral")) == (
        "DIR has no tokenizer of Mistral's own (such as tekken.json): use tokenizer_mode 'hf'"
    )
    assert refusal(MISTRAL, VllmSettings(tokenizer_mode="hf")) == (
        "DIR has no Hugging Face tokenizer (tokenizer.json): use tokenizer_mode 'mistral'"
    )
    assert refusal(HF, VllmSettings(load_format="mistral")) == (
        "DIR has no weights (consolidated*.safetensors) for load_format 'mistral': copy or download them"
    )


def test_only_the_chosen_formats_files_are_downloaded() -> None:
    assert needed_files(V03, resolved(V03)) == [
        "config.json",
        "generation_config.json",
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer.model.v3",
        "tokenizer_config.json",
    ]
    mistral = needed_files(V03, resolved(V03, ALL_MISTRAL))
    assert [name for name in mistral if name.endswith(".safetensors")] == ["consolidated.safetensors"]
    assert "params.json" in mistral


def test_safetensors_are_preferred_to_bin_files() -> None:
    names = [*HF, "pytorch_model.bin", "pytorch_model.bin.index.json", "subfolder/model.safetensors"]
    assert needed_files(names, resolved(names)) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_dummy_weights_are_not_downloaded() -> None:
    formats = resolved(V03, VllmSettings(load_format="dummy"))
    assert not [name for name in needed_files(V03, formats) if name.endswith(".safetensors")]


def test_training_state_is_not_taken_for_weights() -> None:
    assert weight_files(["optimizer.pt", "pytorch_model.bin", "training_args.bin"], "auto") == ["pytorch_model.bin"]


def test_a_series_with_a_gap_names_what_is_missing() -> None:
    assert missing_shards(["model-00001-of-00003.safetensors", "tokenizer.json"]) == [
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
    ]
    assert missing_shards(["model.safetensors"]) == []
