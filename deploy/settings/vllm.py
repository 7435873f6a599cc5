"""The engine."""

from typing import Literal

from deploy.settings.fields import Group, option


class VllmSettings(Group):
    """vLLM's engine arguments that operators set most. Any other one goes through `--engine KEY=VALUE`."""

    max_model_len: int | None = option(
        None,
        "Longest sequence, prompt and completion together.",
        unset="the model's own limit",
        unit="tokens",
        flag="max-model-len",
        ge=16,
        le=10_000_000,
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = option(
        "auto",
        "Number format of weights and activations. `auto`: what the model's files hold, or float32 for a small model "
        "on a CPU of this machine that is slow in bfloat16.",
        flag="dtype",
    )
    quantization: str | None = option(
        None,
        "Quantisation method, for example awq, gptq or fp8.",
        unset="what the model's files say",
        flag="quantization",
        min_length=1,
    )
    load_format: str = option(
        "auto",
        "How weights are read: auto, safetensors, mistral, dummy (random weights), …",
        flag="load-format",
        min_length=1,
    )
    tokenizer_mode: Literal["auto", "hf", "mistral", "slow"] = option(
        "auto",
        "Which tokenizer to use. `mistral`: Mistral's own (tekken.json or tokenizer.model), through mistral-common. "
        "`auto`: Mistral's where the model has no Hugging Face tokenizer.",
        flag="tokenizer-mode",
    )
    config_format: Literal["auto", "hf", "mistral"] = option(
        "auto", "Which configuration file to read: config.json (hf) or params.json (mistral).", flag="config-format"
    )
    chat_template: str | None = option(
        None,
        "Chat template: a file, or the name of one that ships with the product (`mistral-instruct`, `base`).",
        unset="the model's own; a model without one gets `base`",
        flag="chat-template",
        min_length=1,
    )
    tensor_parallel_size: int = option(
        1, "GPUs that one replica spreads over.", unit="GPUs", flag="tensor-parallel-size", ge=1, le=64
    )
    gpu_memory_utilization: float = option(
        0.9, "GPU only: share of the GPU's memory that the engine may use.", flag="gpu-memory-utilization", gt=0, le=1
    )
    kv_cache_gib: float | None = option(
        None,
        "Memory for the KV cache of one replica.",
        unset="on a GPU what is left, on a CPU a share of free memory",
        unit="GiB",
        flag="kv-cache-gib",
        gt=0,
        le=4096,
    )
    max_num_seqs: int = option(
        128, "Most sequences that one replica decodes at once.", unit="sequences", flag="max-num-seqs", ge=1, le=4096
    )
    max_num_batched_tokens: int | None = option(
        None,
        "Most tokens in one engine step; also the chunk in which long prompts are read.",
        unset="vLLM's",
        unit="tokens",
        ge=16,
        le=1_000_000,
    )
    max_num_queued_reqs: int = option(
        512,
        "Requests that may wait in one replica; one more gets 429, or 503 without admission.",
        unit="requests",
        ge=1,
        le=100_000,
    )
    enforce_eager: bool = option(
        False, "Do not compile or capture the model: starts faster, runs slower on a GPU.", flag="enforce-eager"
    )
    enable_prefix_caching: bool = option(True, "Reuse the KV cache of prompts that begin alike.")
    seed: int = option(0, "Seed of the sampler.", flag="seed", ge=0, le=2**31 - 1)
