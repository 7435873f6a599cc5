"""Prevents our check of engine arguments from refusing what the real vLLM takes, and from taking what it refuses."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy import profiles
from deploy.engine_arguments import known_names, mistakes
from deploy.loading import load

ROOT = Path(__file__).resolve().parents[2]


def test_the_names_read_from_the_source_are_those_of_vllms_dataclasses() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    assert known_names() == {
        field.name for owner in (AsyncEngineArgs, FrontendArgs) for field in dataclasses.fields(owner)
    }


def test_every_default_of_vllms_own_is_taken() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    defaults = vars(AsyncEngineArgs(model="any")) | vars(FrontendArgs())
    plain = {}
    for name, value in defaults.items():
        try:
            plain[name] = json.loads(json.dumps(value))
        except TypeError:
            continue  # Configurations and sentinels, which nobody can write as KEY=VALUE.
    assert len(plain) > 200
    assert mistakes(plain) == []


@pytest.mark.parametrize("name", profiles.shipped())
def test_the_engine_arguments_of_a_profile_are_taken(name: str) -> None:
    assert mistakes(load({"profile": name}).engine) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"block_size": 16, "kv_cache_dtype": "fp8", "stream_interval": 2, "max_logprobs": 5, "cpu_offload_gb": 2},
        {"attention_backend": "flash_attn", "attention_config": {"backend": "CPU_ATTN"}},
        {"compilation_config": {"mode": 3, "cudagraph_mode": "FULL", "pass_config": {"fuse_norm_quant": True}}},
        {"kv_transfer_config": {"kv_connector": "NixlConnector", "kv_role": "kv_both"}, "optimization_level": 1},
        {
            "speculative_config": {"method": "ngram", "num_speculative_tokens": 4},
            "hf_overrides": {"sliding_window": 512},
        },
        {"enable_lora": True, "max_lora_rank": 16, "lora_modules": [{"name": "a", "path": "/b"}]},
        {"api_key": ["a"], "tool_call_parser": "mistral", "middleware": ["my.Middleware"]},
        {
            "limit_mm_per_prompt": {"image": 2},
            "override_generation_config": {"temperature": 0.5},
            "disable_log_stats": None,
        },
    ],
)
def test_what_vllm_takes_passes(arguments: dict[str, Any]) -> None:
    assert mistakes(arguments) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"block_size": "abc"}, "block_size is 'abc': vLLM says it should be a valid integer"),
        ({"block_size": 0}, "block_size is 0: vLLM says it should be greater than 0"),
        ({"kv_cache_dtype": "fp9"}, "kv_cache_dtype is 'fp9': vLLM says it should be 'auto', 'float16', 'bfloat16', "),
        ({"compilation_config": [1]}, "compilation_config is [1]: vLLM says it should be an object"),
        ({"compilation_config": {"mode": 9}}, "compilation_config.mode is 9: vLLM says it should be 0, 1, 2 or 3"),
        ({"kernel_config": {"x": 1}}, "kernel_config.x is 1: vLLM says unexpected keyword argument"),
        (
            {"attention_backend": "NOPE"},
            "attention_backend is 'NOPE': vLLM says unknown attention backend: 'NOPE'. Valid ",
        ),
        ({"lora_modules": [{"name": "a"}]}, "lora_modules.0.path is null: vLLM says field required"),
        ({"stream_interval": 0}, "stream_interval is 0: vLLM says it should be greater than or equal to 1"),
        ({"enable_lora": "maybe"}, "enable_lora is 'maybe': vLLM says it should be a valid boolean"),
        ({"api_key": "secret"}, "api_key is (hidden): vLLM says it should be a valid array"),
    ],
)
def test_what_vllm_refuses_is_named_with_what_it_takes(arguments: dict[str, Any], said: str) -> None:
    (sentence,) = mistakes(arguments)
    assert sentence.startswith(f"engine argument {said}")


def test_serve_py_ends_with_code_2_and_one_sentence_before_anything_starts() -> None:
    command = [sys.executable, "serve.py", "--engine", "scheduling_policy=fair"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "checking the engine arguments with vLLM",
        "serve.py: engine argument scheduling_policy is 'fair': vLLM says it should be 'fcfs' or 'priority'",
    ]
