"""Prevents a mistake in the settings that is swallowed, or that its sentence does not let a person find and mend."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import UsageError
from deploy.loading import load


def refusal(arguments: dict[str, Any] | None = None, **keywords: Any) -> str:
    with pytest.raises(UsageError) as caught:
        load(arguments, **keywords)
    return str(caught.value)


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
