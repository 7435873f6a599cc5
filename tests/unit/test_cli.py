"""Prevents: tracebacks, wrong exit codes and vague messages for the mistakes that people really make."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import cli
from deploy.machine import Machine

GIB = 1024**3
ROOT = Path(__file__).resolve().parents[2]
SMALL = Machine(cores=(0, 1), memory_bytes=24 * GIB, free_memory_bytes=20 * GIB, gpus=())


@pytest.fixture(autouse=True)
def _two_cores_and_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "measure", lambda: SMALL)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def mistake(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The one sentence that serve.py answers a mistake with."""
    assert cli.main(flags) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("serve.py: ")
    return lines[0].removeprefix("serve.py: ")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--modle", "demo"], ["--modle", "--model"]),
        (["--port", "99999"], ["--port", "99999", "65535"]),
        (["--max-model-len", "many"], ["--max-model-len", "many"]),
        (["--model", "/no/such/directory"], ["/no/such/directory"]),
        (["--profile", "no-such-profile"], ["no-such-profile", "demo"]),
        (["--max-model-len", "9000"], ["9000", "8192"]),
        (["--replicas", "3"], ["3", "2"]),
        (["--replicas", "2", "--min-replicas", "1", "--max-replicas", "2"], ["replicas", "min_replicas"]),
        (["--kv-cache-gib", "60"], ["60", "GiB"]),
        (["--device", "gpu"], ["GPU", "--device cpu"]),
        (["--engine", "blok_size=32"], ["blok_size", "block_size"]),
    ],
)
def test_a_mistake_in_flags_is_one_sentence_with_the_value_and_the_remedy(
    capsys: pytest.CaptureFixture[str], flags: list[str], words: list[str]
) -> None:
    sentence = mistake(capsys, *flags)
    assert [word for word in words if word not in sentence] == []


def test_a_taken_port_is_named_before_anything_starts(capsys: pytest.CaptureFixture[str], taken_port: int) -> None:
    assert f"port {taken_port} is taken" in mistake(capsys, "--port", str(taken_port))


def test_an_address_of_another_machine_cannot_be_listened_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot listen on 192.0.2.77:" in mistake(capsys, "--host", "192.0.2.77")


def test_malformed_yaml_is_named_with_its_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text("server:\n  port: [8000\n")
    sentence = mistake(capsys, "--profile", str(profile))
    assert str(profile) in sentence
    assert "line" in sentence


def test_an_unknown_key_in_a_profile_names_the_nearest_known_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text("vllm:\n  max_model_length: 100\n")
    sentence = mistake(capsys, "--profile", str(profile))
    assert "max_model_length" in sentence
    assert "max_model_len" in sentence.replace("max_model_length", "")


def test_incomplete_weights_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["MistralForCausalLM"]}))
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert str(tmp_path) in mistake(capsys, "--model", str(tmp_path))


def test_cores_that_another_deployment_holds_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "free_cores", lambda cores: 1)
    monkeypatch.setattr(cli, "check_port", lambda host, port: None)
    assert mistake(capsys, "--device", "cpu").startswith("2 cores are needed but 1 are free")


def test_the_dry_run_prints_the_contracted_keys_and_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    assert cli.main(["--dry-run"]) == 0
    plan = yaml.safe_load(capsys.readouterr().out)
    assert list(plan) == ["model", "engine", "replicas", "memory", "kv_cache", "endpoints", "warnings"]


@pytest.mark.parametrize("profile", ["mistral-7b-v0.1", "mistral-7b-instruct-v0.3", "mistral-7b-autoscale"])
def test_a_gpu_profile_can_be_planned_where_there_is_no_gpu(capsys: pytest.CaptureFixture[str], profile: str) -> None:
    import yaml

    assert cli.main(["--profile", profile, "--dry-run"]) == 0
    plan = yaml.safe_load(capsys.readouterr().out)
    assert plan["replicas"]["device"] == "gpu"
    assert plan["kv_cache"]["sequences_of_max_model_len"] >= 1


def test_the_dry_run_needs_neither_ray_nor_vllm() -> None:
    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['ray', 'vllm', 'torch', 'transformers']))\n"
        "from deploy.cli import main\n"
        "sys.exit(main(['--dry-run']))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("model:\n")


def test_help_lists_every_contracted_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    contracted = (
        "profile host port replicas min-replicas max-replicas max-model-len tensor-parallel-size quantization dtype "
        "load-format revision served-model-name engine dry-run rehearse model"
    )
    assert [flag for flag in contracted.split() if f"--{flag}" not in text] == []
