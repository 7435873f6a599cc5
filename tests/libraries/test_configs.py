"""Prevents a shipped configuration that Ray or vLLM would refuse on the machine it is meant for.

Starts no engine: vLLM builds its whole engine configuration from a model's configuration file alone, GPU or not.
"""

import dataclasses
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from deploy import profiles
from deploy.architecture import MISTRAL_7B_V01
from deploy.llm import engine_arguments
from deploy.loading import load
from deploy.settings import Settings

every_profile = pytest.mark.parametrize("name", profiles.shipped())
NF4 = "mistral-7b-4bit"
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
"""What AutoAWQ writes into the ``config.json`` of a 4-bit model."""
SERVE_CONFIG = profiles.DIRECTORY / "serve.yaml"


@pytest.fixture(autouse=True)
def _what_vllm_sets_in_the_environment_ends_with_the_test() -> Iterator[None]:
    with mock.patch.dict(os.environ):
        yield


def config_json(quantization: str | None = None) -> dict[str, Any]:
    """The published v0.1 configuration in Hugging Face's vocabulary, or that of its AWQ files."""
    model = MISTRAL_7B_V01
    return {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "intermediate_size": model.intermediate_size,
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.max_position_embeddings,
        "sliding_window": model.sliding_window,
        "torch_dtype": "float16" if quantization == "awq" else model.dtype,
    } | ({"quantization_config": AWQ} if quantization == "awq" else {})


def params_json() -> dict[str, Any]:
    """The same shape in Mistral's vocabulary, with v0.3's vocabulary and without a window."""
    model = MISTRAL_7B_V01
    return {
        "dim": model.hidden_size,
        "n_layers": model.layers,
        "head_dim": model.head_dim,
        "hidden_dim": model.intermediate_size,
        "n_heads": model.heads,
        "n_kv_heads": model.kv_heads,
        "norm_eps": 1e-5,
        "vocab_size": 32768,
        "rope_theta": 1e6,
        "max_position_embeddings": model.max_position_embeddings,
    }


def engine_config(settings: Settings, directory: Path) -> Any:
    """vLLM's own configuration for these settings, from a directory that holds the model's configuration alone."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    is_mistral = settings.vllm.config_format == "mistral"
    file = directory / ("params.json" if is_mistral else "config.json")
    file.write_text(
        json.dumps(params_json() if is_mistral else config_json(settings.vllm.quantization)), encoding="utf-8"
    )
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    arguments = {key: value for key, value in engine_arguments(settings).items() if key in known}
    return AsyncEngineArgs(model=str(directory), **arguments).create_engine_config()


@every_profile
def test_vllm_knows_every_argument_of_a_profile(name: str) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    known = {field.name for owner in (AsyncEngineArgs, FrontendArgs) for field in dataclasses.fields(owner)}
    assert sorted(set(engine_arguments(load({"profile": name}))) - known) == []


@pytest.mark.parametrize("name", [name for name in profiles.shipped() if name != NF4])
def test_vllm_builds_its_engine_configuration_from_a_profile(name: str, tmp_path: Path) -> None:
    settings = load({"profile": name})
    config = engine_config(settings, tmp_path)
    assert config.model_config.max_model_len == settings.vllm.max_model_len
    assert str(config.model_config.dtype) == ("torch.float16" if name == "mistral-7b-4bit-awq" else "torch.bfloat16")
    # On CUDA vLLM calls awq auto_awq.
    assert (config.model_config.quantization or "").removeprefix("auto_") == (settings.vllm.quantization or "")
    assert config.parallel_config.world_size == settings.vllm.tensor_parallel_size
    assert config.scheduler_config.max_num_seqs == settings.vllm.max_num_seqs
    assert config.load_config.load_format == settings.vllm.load_format
    assert config.model_config.tokenizer_mode == settings.vllm.tokenizer_mode


def test_the_nf4_profile_needs_the_plugin_that_the_gpu_environment_installs(tmp_path: Path) -> None:
    settings = load({"profile": NF4})
    if importlib.util.find_spec("vllm_bnb_plugin"):
        config = engine_config(settings, tmp_path)
        assert (config.model_config.quantization, config.load_config.load_format) == ("bitsandbytes", "bitsandbytes")
        assert config.quant_config.load_in_4bit
    else:
        with pytest.raises(ValueError, match=r"Unknown quantization method: bitsandbytes\. Must be one of \['awq', "):
            engine_config(settings, tmp_path)


def test_everything_of_the_nf4_profile_but_the_plugins_own_is_accepted_without_it(tmp_path: Path) -> None:
    settings = load({"profile": NF4, "vllm": {"quantization": "null", "load_format": "auto"}})
    config = engine_config(settings, tmp_path)
    assert config.model_config.max_model_len == 32768
    assert str(config.model_config.dtype) == "torch.bfloat16"
    assert (config.scheduler_config.max_num_seqs, config.scheduler_config.max_num_batched_tokens) == (64, 2048)


def test_vllm_reads_four_bits_in_groups_of_128_from_the_awq_models_files(tmp_path: Path) -> None:
    quantisation = engine_config(load({"profile": "mistral-7b-4bit-awq"}), tmp_path).quant_config
    assert (quantisation.weight_bits, quantisation.group_size, quantisation.lm_head_quantized) == (4, 128, False)


@pytest.mark.parametrize(
    ("name", "window"), [("mistral-7b-v0.1", 4096), ("mistral-7b-instruct-v0.3", None), ("mistral-7b-4bit-awq", 4096)]
)
def test_vllm_takes_the_window_from_the_model_of_a_profile(name: str, window: int | None, tmp_path: Path) -> None:
    assert engine_config(load({"profile": name}), tmp_path).model_config.get_sliding_window() == window


def test_the_tool_parser_of_the_instruct_profile_is_one_of_vllms() -> None:
    from vllm.tool_parsers import ToolParserManager

    engine = load({"profile": "mistral-7b-instruct-v0.3"}).engine
    assert engine["enable_auto_tool_choice"] is True
    assert ToolParserManager.get_tool_parser(engine["tool_call_parser"]).__name__ == "MistralToolParser"


def test_ray_serve_accepts_every_key_of_the_serve_config() -> None:
    from ray.serve.schema import HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

    written = yaml.safe_load(SERVE_CONFIG.read_text(encoding="utf-8"))
    # Ray drops keys that it does not know, so the names are compared too.
    assert set(written) <= set(ServeDeploySchema.model_fields)
    assert set(written["http_options"]) <= set(HTTPOptionsSchema.model_fields)
    assert set(written["applications"][0]) <= set(ServeApplicationSchema.model_fields)
    config = ServeDeploySchema.model_validate(written)
    (application,) = config.applications
    assert (application.name, application.route_prefix) == ("mistral-serve", "/")
    assert load(application.args).profile == "demo"
    assert (config.http_options.host, config.http_options.port) == (Settings().server.host, Settings().server.port)


def test_the_import_path_of_the_serve_config_is_a_function_that_takes_arguments() -> None:
    from ray._common.utils import import_attr

    written = yaml.safe_load(SERVE_CONFIG.read_text(encoding="utf-8"))
    build = import_attr(written["applications"][0]["import_path"])
    assert build.__name__ == "build_app"
    assert list(build.__annotations__) == ["args", "return"]
