"""Prevents a rehearsal that rehearses something other than Mistral-7B-v0.1."""

import json
from pathlib import Path

import pytest

from deploy.architecture import MISTRAL_7B_V01, from_hf_config
from deploy.errors import StartError, UsageError
from deploy.model import inspect
from deploy.model.rehearsal import build_rehearsal, rehearsed_architecture
from deploy.settings import Settings


def test_the_written_configuration_is_the_published_one(tmp_path: Path) -> None:
    path = build_rehearsal(tmp_path, MISTRAL_7B_V01, print)
    config = json.loads((path / "config.json").read_text())
    assert from_hf_config(config) == MISTRAL_7B_V01
    assert (config["rope_theta"], config["rms_norm_eps"], config["bos_token_id"], config["eos_token_id"]) == (
        10000.0,
        1e-05,
        1,
        2,
    )


def test_the_tokenizer_is_v01s(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    path = build_rehearsal(tmp_path, MISTRAL_7B_V01, print)
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(path / "tokenizer.model.v1"))
    assert tokenizer.vocab_size() == 32000
    assert tokenizer.encode("Hello world") == [22557, 1526]


def test_fewer_layers_make_another_directory(tmp_path: Path) -> None:
    two = rehearsed_architecture(Settings(rehearse=True, rehearse_layers=2))
    path = build_rehearsal(tmp_path, two, print)
    assert path == tmp_path / "rehearsal-2-layers-v1"
    assert from_hf_config(json.loads((path / "config.json").read_text())).layers == 2


def test_writing_it_twice_changes_nothing(tmp_path: Path) -> None:
    path = build_rehearsal(tmp_path, MISTRAL_7B_V01, print)
    written = (path / "config.json").stat().st_mtime_ns
    build_rehearsal(tmp_path, MISTRAL_7B_V01, pytest.fail)
    assert (path / "config.json").stat().st_mtime_ns == written


def test_the_rehearsed_model_may_be_named_and_no_other() -> None:
    named = Settings(rehearse=True, model="mistralai/Mistral-7B-v0.1")
    assert rehearsed_architecture(named) == MISTRAL_7B_V01
    with pytest.raises(UsageError) as error:
        rehearsed_architecture(Settings(rehearse=True, model="mistralai/Mistral-7B-v0.3"))
    assert str(error.value) == (
        "--rehearse serves the architecture of mistralai/Mistral-7B-v0.1 only: "
        "leave out --model 'mistralai/Mistral-7B-v0.3'"
    )


def test_bitsandbytes_is_refused_because_it_needs_real_weights() -> None:
    with pytest.raises(UsageError, match="'bitsandbytes' cannot be rehearsed"):
        inspect(Settings.model_validate({"rehearse": True, "vllm": {"quantization": "bitsandbytes"}}))


def test_without_mistral_common_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StartError) as error:
        build_rehearsal(tmp_path, MISTRAL_7B_V01, print)
    assert str(error.value) == (
        "mistral-common with its tokenizer.model.v1 was not found: install the pinned requirements"
    )
