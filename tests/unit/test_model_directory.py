"""Prevents minutes of loading that end in a stack of vLLM's because the model's files were incomplete."""

import json
from pathlib import Path

import pytest

from deploy.errors import UsageError
from deploy.model.directory import read_directory
from deploy.model.formats import Formats
from deploy.settings import VllmSettings
from tests.unit.model_files import CONFIG, PARAMS, hf_files, index, mistral_files, safetensors, write

SHARDS = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]


def refusal(path: Path, vllm: VllmSettings | None = None) -> str:
    with pytest.raises(UsageError) as error:
        read_directory(path, vllm or VllmSettings())
    return str(error.value)


def test_a_complete_directory_tells_its_shape_and_size(tmp_path: Path) -> None:
    model = read_directory(write(tmp_path, hf_files()), VllmSettings())
    assert (model.architecture.layers, model.architecture.sliding_window) == (2, 256)
    assert model.weight_bytes == len(safetensors())
    assert model.formats == Formats("hf", "hf", "auto")
    assert model.warnings == ()


def test_a_directory_in_mistrals_format_is_complete_too(tmp_path: Path) -> None:
    model = read_directory(write(tmp_path, mistral_files()), VllmSettings())
    assert model.formats == Formats("mistral", "mistral", "mistral")
    assert model.architecture.max_position_embeddings == 128_000
    assert model.has_chat_template


def test_params_take_from_config_json_what_they_lack_as_vllm_does(tmp_path: Path) -> None:
    files = mistral_files() | {"config.json": json.dumps(CONFIG).encode()}
    model = read_directory(write(tmp_path, files), VllmSettings(config_format="mistral"))
    assert (model.architecture.max_position_embeddings, model.architecture.sliding_window) == (512, 256)


def test_the_weights_tell_the_format_that_the_configuration_leaves_out(tmp_path: Path) -> None:
    config = {key: value for key, value in CONFIG.items() if key != "torch_dtype"}
    files = hf_files(config_json=json.dumps(config).encode(), model_safetensors=safetensors("F16"))
    assert read_directory(write(tmp_path, files), VllmSettings()).architecture.dtype == "float16"


def test_all_shards_of_the_index_are_counted(tmp_path: Path) -> None:
    files = hf_files(model_safetensors=None) | dict.fromkeys(SHARDS, safetensors())
    files["model.safetensors.index.json"] = index(*SHARDS)
    assert read_directory(write(tmp_path, files), VllmSettings()).weight_bytes == 3 * len(safetensors())


def test_bin_weights_are_accepted(tmp_path: Path) -> None:
    files = hf_files(model_safetensors=None) | {"pytorch_model.bin": b"weights"}
    assert read_directory(write(tmp_path, files), VllmSettings()).weight_bytes == 7


def test_dummy_weights_are_computed(tmp_path: Path) -> None:
    model = read_directory(write(tmp_path, hf_files(model_safetensors=None)), VllmSettings(load_format="dummy"))
    assert model.weight_bytes == model.architecture.weight_bytes


def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    assert refusal(missing) == f"model directory {missing} does not exist: check the path given to --model"


def test_a_file_is_no_model(tmp_path: Path) -> None:
    file = write(tmp_path, hf_files()) / "model.safetensors"
    assert refusal(file) == f"model {file} is a file: give the directory that holds config.json and the weights"


def test_a_missing_shard_of_the_index_is_named(tmp_path: Path) -> None:
    files = hf_files(model_safetensors=None) | dict.fromkeys(SHARDS[:2], safetensors())
    files["model.safetensors.index.json"] = index(*SHARDS)
    assert refusal(write(tmp_path, files)) == (
        f"{tmp_path} lacks 1 of its weight files ({SHARDS[2]}): copy or download them again"
    )


def test_a_missing_shard_is_found_without_an_index(tmp_path: Path) -> None:
    files = hf_files(model_safetensors=None) | {SHARDS[0]: safetensors()}
    assert refusal(write(tmp_path, files)) == (
        f"{tmp_path} lacks 2 of its weight files ({SHARDS[1]}, {SHARDS[2]}): copy or download them again"
    )


def test_a_truncated_shard_is_refused_with_both_sizes(tmp_path: Path) -> None:
    whole = safetensors()
    path = write(tmp_path, hf_files(model_safetensors=whole[:-3])) / "model.safetensors"
    assert refusal(tmp_path) == (
        f"{path} has {len(whole) - 3} bytes where its header tells {len(whole)}: copy or download it again"
    )


@pytest.mark.parametrize("content", [safetensors()[:20], b"\x05", b"not safetensors at all"])
def test_a_file_cut_within_its_header_is_refused(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, hf_files(model_safetensors=content)) / "model.safetensors"
    assert refusal(tmp_path) == f"{path} is cut short or is no safetensors file: copy or download it again"


def test_a_header_that_is_no_header_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, hf_files(model_safetensors=(2).to_bytes(8, "little") + b"[]")) / "model.safetensors"
    assert refusal(tmp_path) == f"{path} has an unreadable safetensors header: copy or download it again"


def test_an_empty_weight_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, hf_files(model_safetensors=b"")) / "model.safetensors"
    assert refusal(tmp_path) == f"{path} is empty: copy or download it again"


def test_a_git_lfs_pointer_is_told_from_weights(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n"
    path = write(tmp_path, hf_files(model_safetensors=pointer)) / "model.safetensors"
    assert refusal(tmp_path) == (
        f"{path} is a Git LFS pointer instead of the weights: run `git lfs pull` in its directory"
    )


def test_a_truncated_consolidated_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, mistral_files(consolidated_safetensors=safetensors()[:-1]))
    assert "where its header tells" in refusal(tmp_path)


def test_an_index_without_its_map_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, hf_files() | {"model.safetensors.index.json": b"{}"}) / "model.safetensors.index.json"
    assert refusal(tmp_path) == f"{path} has no 'weight_map': copy or download it again"


@pytest.mark.parametrize(
    ("content", "reason"), [(b"{", "is not valid JSON"), (b"[]", "holds list instead of a JSON object")]
)
def test_a_broken_configuration_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    assert f"{tmp_path / 'config.json'} {reason}" in refusal(write(tmp_path, hf_files(config_json=content)))


def test_a_missing_field_is_named_with_its_file(tmp_path: Path) -> None:
    params = {key: value for key, value in PARAMS.items() if key != "n_layers"}
    write(tmp_path, mistral_files(params_json=json.dumps(params).encode()))
    assert refusal(tmp_path).startswith(f"{tmp_path / 'params.json'} lacks 'n_layers': ")


def test_an_unreadable_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", denied)
    assert refusal(tmp_path) == f"{tmp_path} cannot be read (Permission denied): check its permissions"


@pytest.mark.parametrize(
    "files",
    [
        {"chat_template.jinja": b"x"},
        {"tokenizer_config.json": b'{"chat_template": "x"}'},
        {"tokenizer_config.json": b'{"chat_template": [{"name": "default", "template": "x"}]}'},
    ],
)
def test_a_models_own_chat_template_is_found(tmp_path: Path, files: dict[str, bytes]) -> None:
    assert read_directory(write(tmp_path, hf_files() | files), VllmSettings()).has_chat_template


def test_a_model_without_a_chat_template_is_told_apart(tmp_path: Path) -> None:
    assert not read_directory(write(tmp_path, hf_files()), VllmSettings()).has_chat_template


def test_a_tokenizer_without_a_version_is_pointed_out(tmp_path: Path) -> None:
    files = mistral_files(tekken_json=None) | {"tokenizer.model": b""}
    assert read_directory(write(tmp_path, files), VllmSettings()).warnings == (
        f"{tmp_path / 'tokenizer.model'} carries no version and is read as v1: rename it, for example to "
        "tokenizer.model.v3, when the model is newer than Mistral-7B-Instruct-v0.1",
    )
    files["tokenizer.model.v3"] = b""
    assert read_directory(write(tmp_path, files), VllmSettings()).warnings == ()
