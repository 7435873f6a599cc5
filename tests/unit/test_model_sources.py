"""Prevents `--model` from being taken for something else, and a plan that builds, downloads or imports things."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.architecture import MISTRAL_7B_V01
from deploy.errors import UsageError
from deploy.model import inspect, prepare
from deploy.model.chat_templates import shipped
from deploy.settings import Settings, VllmSettings
from tests.unit.model_files import hf_files, mistral_files, write


def refusal(**settings: Any) -> str:
    with pytest.raises(UsageError) as error:
        inspect(Settings(**settings))
    return str(error.value)


def test_the_demo_is_told_before_it_is_built(tmp_path: Path) -> None:
    source = inspect(Settings(cache_dir=tmp_path))
    assert (source.kind, source.name, source.directory) == ("demo", "demo", None)
    assert (source.weight_bytes, source.download_bytes) == (269_030_016, 92_871_040)
    assert source.architecture is not None
    assert source.architecture.sliding_window == 1024
    assert list(tmp_path.iterdir()) == []


def test_the_demo_accepts_only_formats_that_it_has(tmp_path: Path) -> None:
    assert refusal(cache_dir=tmp_path, vllm={"tokenizer_mode": "mistral"}) == (
        "the demo model has no tokenizer of Mistral's own (such as tekken.json): use tokenizer_mode 'hf'"
    )


def test_a_local_directory_is_named_after_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "my-mistral", hf_files())
    source = inspect(Settings(model=str(path)))
    assert (source.kind, source.name, source.directory, source.download_bytes) == ("local", "my-mistral", path, 0)
    assert source.has_chat_template is False
    assert source.warnings == (
        "this model has no chat template: chats use `base`, a plain transcript (set vllm.chat_template "
        "for another one)",
    )


def test_a_directory_may_be_given_relative_to_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "models" / "mine", hf_files())
    monkeypatch.chdir(tmp_path)
    assert inspect(Settings(model="models/mine")).directory == path
    assert inspect(Settings(model="./models/mine")).directory == path


def test_a_linked_directory_keeps_the_links_name(tmp_path: Path) -> None:
    path = write(tmp_path / "0123abcd", hf_files())
    (tmp_path / "mistral").symlink_to(path)
    source = inspect(Settings(model=str(tmp_path / "mistral")))
    assert (source.name, source.directory) == ("mistral", path)
    assert inspect(Settings(model=f"{path}/../0123abcd")).name == "0123abcd"


def test_a_public_base_model_is_announced_with_the_template_it_will_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    base = inspect(Settings(model="mistralai/Mistral-7B-v0.1"))
    assert (base.has_chat_template, len(base.warnings)) == (False, 1)
    mistral = VllmSettings(tokenizer_mode="mistral")
    assert inspect(Settings(model="mistralai/Mistral-7B-v0.1", vllm=mistral)).warnings == ()
    assert inspect(Settings(model="mistralai/Mistral-7B-Instruct-v0.2")).warnings == ()


def test_the_served_name_can_be_set(tmp_path: Path) -> None:
    path = write(tmp_path, hf_files())
    assert inspect(Settings(model=str(path), served_model_name="chat")).name == "chat"
    assert prepare(Settings(model=str(path), served_model_name="chat"), print).name == "chat"


def test_a_path_that_does_not_exist_is_not_asked_for_at_the_hub(tmp_path: Path) -> None:
    assert refusal(model=str(tmp_path / "none")).startswith(f"model directory {tmp_path / 'none'} does not exist")
    assert "does not exist" in refusal(model="./none")


def test_a_word_that_is_no_model_names_what_would_be() -> None:
    assert refusal(model="dmeo") == (
        "model 'dmeo' is neither `demo` nor a directory nor a hub id such as mistralai/Mistral-7B-v0.1"
    )


def test_a_revision_is_for_hub_models(tmp_path: Path) -> None:
    assert refusal(revision="v1", cache_dir=tmp_path) == (
        "revision 'v1' applies to hub models only: leave it out, or give a hub id"
    )


def test_a_wrong_chat_template_is_told_before_anything_is_fetched() -> None:
    assert refusal(model="mistralai/Mistral-7B-v0.1", vllm={"chat_template": "none"}).startswith(
        "chat_template 'none' is neither a file nor"
    )


def test_a_directory_is_prepared_with_what_its_files_allow(tmp_path: Path) -> None:
    hf = prepare(Settings(model=str(write(tmp_path / "hf", hf_files()))), pytest.fail)
    assert (hf.path, hf.chat_template) == (tmp_path / "hf", shipped()["base"])
    assert (hf.config_format, hf.tokenizer_mode, hf.load_format) == ("hf", "hf", "auto")
    mistral = prepare(Settings(model=str(write(tmp_path / "mistral", mistral_files()))), pytest.fail)
    assert (mistral.path, mistral.chat_template) == (tmp_path / "mistral", None)
    assert (mistral.config_format, mistral.tokenizer_mode, mistral.load_format) == ("mistral", "mistral", "mistral")


def test_a_requested_template_replaces_the_models_own(tmp_path: Path) -> None:
    path = write(tmp_path, hf_files() | {"chat_template.jinja": b"own"})
    assert prepare(Settings(model=str(path)), print).chat_template is None
    asked = Settings(model=str(path), vllm=VllmSettings(chat_template="mistral-instruct"))
    assert prepare(asked, print).chat_template == shipped()["mistral-instruct"]


def test_a_requested_template_does_not_fit_mistrals_own_tokenizer(tmp_path: Path) -> None:
    path = write(tmp_path, mistral_files())
    assert "cannot be used with Mistral's own tokenizer" in refusal(model=str(path), vllm={"chat_template": "base"})


def test_a_rehearsal_needs_no_weights_and_ignores_the_formats_of_the_real_model(tmp_path: Path) -> None:
    settings = Settings(
        model="mistralai/Mistral-7B-v0.1",
        rehearse=True,
        cache_dir=tmp_path,
        vllm=VllmSettings(load_format="safetensors", chat_template="base"),
    )
    source = inspect(settings)
    assert (source.kind, source.name, source.architecture) == ("rehearsal", "mistral-7b-rehearsal", MISTRAL_7B_V01)
    assert (source.weight_bytes, source.download_bytes, source.directory) == (14_483_464_192, 0, None)
    assert source.warnings == ("rehearsal: mistralai/Mistral-7B-v0.1 with random weights; its answers mean nothing",)
    prepared = prepare(settings, print)
    assert prepared.chat_template is None
    assert (prepared.config_format, prepared.tokenizer_mode, prepared.load_format) == ("hf", "mistral", "dummy")
    assert inspect(settings).directory == prepared.path


def test_a_shallow_rehearsal_says_so(tmp_path: Path) -> None:
    source = inspect(Settings(rehearse=True, rehearse_layers=2, cache_dir=tmp_path))
    assert source.warnings == (
        "rehearsal: mistralai/Mistral-7B-v0.1 with random weights and 2 of its 32 layers; its answers mean nothing",
    )


def test_planning_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from deploy.model import inspect; from deploy.settings import Settings;"
        f"inspect(Settings(cache_dir=Path({str(tmp_path)!r})));"
        "inspect(Settings(model='mistralai/Mistral-7B-v0.1'));"
        "print([name for name in ('torch', 'transformers', 'vllm', 'ray', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
