"""The one schema: defaults < profile YAML < ``MISTRAL_SERVE_*`` environment < arguments < flags.

Everything that configures the product ends here: ``serve.py``'s flags, the profiles in ``configs/``, the environment,
``serve run deploy.app:build_app key=value``, and the ``args`` of a RayService. Imports neither ray nor vllm.
"""

import ipaddress
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

ENV_PREFIX = "MISTRAL_SERVE_"
DEMO_MODEL = "demo"


def option(default: Any, description: str, *, unit: str = "", flag: str = "", unset: str = "", **bounds: Any) -> Any:
    """A settings field: its description, unit, bounds, and the short flag it has besides its dotted one.

    ``unset`` says what a default of ``None`` comes to.
    """
    return Field(
        default,
        description=description,
        json_schema_extra={"unit": unit, "flag": flag, "unset": unset},
        **bounds,
    )


class Group(BaseModel):
    """Base of the nested groups: a value never changes after loading, and an unknown key is an error, not dropped."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ServerSettings(Group):
    """Where the server listens, and how it starts and stops."""

    host: str = option(
        "127.0.0.1",
        "Address to listen on. The default is reached from this machine only; 0.0.0.0 listens on every interface.",
        flag="host",
        min_length=1,
    )
    port: int = option(8000, "TCP port of the OpenAI API.", flag="port", ge=1, le=65535)
    start_timeout_s: float = option(
        1800, "Give up when the model is not ready after this long.", unit="s", ge=10, le=86400
    )
    drain_timeout_s: float = option(
        30,
        "On SIGINT or SIGTERM, let running requests finish for at most this long before they are cut.",
        unit="s",
        ge=0,
        le=3600,
    )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the server; a name other than ``localhost`` counts as reachable."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class GatewaySettings(Group):
    """Who may call the server."""

    keys: Literal["auto", "on", "off"] = option(
        "auto",
        "Whether requests need an API key. `auto`: when `gateway.keys_file` is given, or the server listens beyond "
        "loopback. In YAML, write `off` and `on` in quotes.",
    )
    keys_file: Path | None = option(
        None,
        "File of API keys, made by `python -m deploy.keys`; a change takes effect without a restart.",
        unset="no keys",
    )
    open_metrics: bool = option(False, "Answer `/metrics` without a key where requests need one.")


class ScalingSettings(Group):
    """How many replicas run, and when their number changes."""

    replicas: int | None = option(None, "Fixed number of replicas.", unset="1", flag="replicas", ge=1, le=1000)
    min_replicas: int | None = option(
        None, "Autoscaling: never fewer replicas than this.", unset="no autoscaling", flag="min-replicas", ge=1, le=1000
    )
    max_replicas: int | None = option(
        None, "Autoscaling: never more replicas than this.", unset="no autoscaling", flag="max-replicas", ge=1, le=1000
    )
    target_ongoing_requests: float | None = option(
        None,
        "Autoscaling: ongoing requests per replica to aim at.",
        unset="half of `vllm.max_num_seqs`",
        unit="requests",
        gt=0,
        le=10000,
    )
    upscale_delay_s: float = option(
        10, "Autoscaling: the load must be high for this long before a replica is added.", unit="s", ge=0, le=3600
    )
    downscale_delay_s: float = option(
        300, "Autoscaling: the load must be low for this long before a replica is removed.", unit="s", ge=0, le=86400
    )
    look_back_s: float = option(10, "Autoscaling: average the load over this long.", unit="s", gt=0, le=3600)
    drain_timeout_s: float = option(
        600,
        "A replica that is scaled away, or replaced by an update, finishes its streams for at most this long.",
        unit="s",
        ge=0,
        le=86400,
    )
    health_check_period_s: float = option(10, "Time between two health checks of a replica.", unit="s", gt=0, le=3600)
    health_check_timeout_s: float = option(
        60,
        "A replica whose health check takes longer is replaced. Long, because a busy replica is not a dead one.",
        unit="s",
        gt=0,
        le=3600,
    )

    @model_validator(mode="after")
    def _one_way_to_scale(self) -> Self:
        low, high = self.min_replicas, self.max_replicas
        if self.replicas is not None and (low is not None or high is not None):
            raise ValueError(
                f"replicas ({self.replicas}) excludes min_replicas and max_replicas: give a fixed number or a range"
            )
        if (low is None) != (high is None):
            missing = "min_replicas" if low is None else "max_replicas"
            raise ValueError(f"autoscaling needs both bounds: give {missing} too")
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_replicas ({low}) cannot exceed max_replicas ({high})")
        return self

    @property
    def autoscaling(self) -> bool:
        """Whether the number of replicas follows the load."""
        return self.max_replicas is not None

    @property
    def most_replicas(self) -> int:
        """The largest number of replicas that may run at once."""
        return self.max_replicas or self.replicas or 1

    @property
    def least_replicas(self) -> int:
        """The number of replicas that starting waits for."""
        return self.min_replicas or self.replicas or 1


class HardwareSettings(Group):
    """What a replica runs on."""

    device: Literal["auto", "cpu", "gpu"] = option(
        "auto", "What the model runs on. `auto`: a GPU where one is found, otherwise the CPU.", flag="device"
    )
    cores_per_replica: int | None = option(
        None,
        "CPU only: cores of its own for each replica.",
        unset="all cores, shared out over the most replicas that may run",
        unit="cores",
        ge=1,
        le=1024,
    )
    accelerator_type: str | None = option(
        None,
        "GPU only: Ray's name of the GPU to schedule on, for example L4 or A10G.",
        unset="any GPU",
        min_length=1,
    )
    gpu_memory_gib: float | None = option(
        None,
        "GPU only: memory of one GPU, for planning where the GPU is not (on a laptop, in a cluster).",
        unset="measured",
        unit="GiB",
        gt=0,
        le=1024,
    )


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
        "auto", "Number format of weights and activations. `auto`: what the model's files hold.", flag="dtype"
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
        512, "Requests that may wait in one replica; one more gets 503.", unit="requests", ge=1, le=100_000
    )
    enforce_eager: bool = option(
        False, "Do not compile or capture the model: starts faster, runs slower on a GPU.", flag="enforce-eager"
    )
    enable_prefix_caching: bool = option(True, "Reuse the KV cache of prompts that begin alike.")
    seed: int = option(0, "Seed of the sampler.", flag="seed", ge=0, le=2**31 - 1)


class LogSettings(Group):
    """What is written to stderr."""

    level: Literal["debug", "info", "warning", "error"] = option(
        "info", "Least severity of what mistral-serve itself writes.", flag="log-level"
    )
    engine_level: Literal["debug", "info", "warning", "error"] = option(
        "warning", "Least severity of what vLLM and Ray write.", flag="engine-log-level"
    )


class Settings(BaseSettings):
    """The whole configuration of one deployment: one model, its engine, its replicas, its server."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=True)

    profile: str | None = option(
        None,
        "Profile to start from: a name in configs/, or a YAML file.",
        unset="the one made for the model, if any",
        flag="profile",
        min_length=1,
    )
    model: str = option(
        DEMO_MODEL,
        "Hub id, local directory, or `demo` (a small real model that needs no download).",
        flag="model",
        min_length=1,
    )
    revision: str | None = option(
        None, "Branch, tag or commit of a hub model.", unset="its default branch", flag="revision", min_length=1
    )
    served_model_name: str | None = option(
        None,
        "Name that clients use.",
        unset="the hub id, or the directory's name",
        flag="served-model-name",
        min_length=1,
    )
    cache_dir: Path | None = option(
        None, "Where built and rehearsed models are kept.", unset="the user's cache directory", flag="cache-dir"
    )
    rehearse: bool = option(
        False,
        "Serve the full-size Mistral-7B-v0.1 architecture with random weights: what fits, and how fast.",
        flag="rehearse",
    )
    rehearse_layers: int = option(
        32, "Layers of the rehearsed model; fewer rehearse faster and prove less.", unit="layers", ge=1, le=32
    )
    engine: dict[str, Any] = option(
        {}, "Any further vLLM engine argument as KEY=VALUE; repeatable, checked before anything starts.", flag="engine"
    )
    server: ServerSettings = option(ServerSettings(), "Where the server listens, and how it starts and stops.")
    gateway: GatewaySettings = option(GatewaySettings(), "Who may call the server.")
    scaling: ScalingSettings = option(ScalingSettings(), "How many replicas run, and when their number changes.")
    hardware: HardwareSettings = option(HardwareSettings(), "What a replica runs on.")
    vllm: VllmSettings = option(VllmSettings(), "vLLM's engine arguments that operators set most.")
    log: LogSettings = option(LogSettings(), "What is written to stderr.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing but its arguments: a replica that rebuilds its settings must not mix its own environment into them.

        ``deploy.loading.load`` is what reads profiles, the environment and flags.
        """
        return (init_settings,)

    @model_validator(mode="after")
    def _no_argument_twice(self) -> Self:
        own = {key: key for key in ("model", "served_model_name", "revision")}
        own |= {key: f"vllm.{key}" for key in VllmSettings.model_fields}
        own |= {"kv_cache_memory_bytes": "vllm.kv_cache_gib"}
        for key in self.engine:
            if key in own:
                raise ValueError(f"engine argument {key!r} has a setting of its own: use {own[key]}")
        return self

    @property
    def keys_required(self) -> bool:
        """Whether requests need an API key: what ``gateway.keys`` says, with ``auto`` resolved."""
        if self.gateway.keys == "auto":
            return self.gateway.keys_file is not None or not self.server.is_loopback
        return self.gateway.keys == "on"

    @property
    def target_ongoing_requests(self) -> float:
        """Ongoing requests per replica that autoscaling aims at."""
        return self.scaling.target_ongoing_requests or max(1.0, self.vllm.max_num_seqs / 2)
