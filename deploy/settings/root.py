"""The whole tree of settings."""

from pathlib import Path
from typing import Any, Self

from pydantic import model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from deploy.settings.fields import option
from deploy.settings.gateway import AdmissionSettings, GatewaySettings, LimitSettings, QuotaSettings
from deploy.settings.guard import GuardSettings
from deploy.settings.observing import LogSettings, TracingSettings, UsageSettings
from deploy.settings.scaling import HardwareSettings, ScalingSettings
from deploy.settings.server import ServerSettings, TlsSettings
from deploy.settings.vllm import VllmSettings

ENV_PREFIX = "MISTRAL_SERVE_"
DEMO_MODEL = "demo"


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
    tls: TlsSettings = option(TlsSettings(), "Encrypted connections.")
    gateway: GatewaySettings = option(GatewaySettings(), "Who may call the server.")
    limits: LimitSettings = option(LimitSettings(), "What one request, and one key, may ask for.")
    quotas: QuotaSettings = option(QuotaSettings(), "How much a key may use in a minute.")
    admission: AdmissionSettings = option(
        AdmissionSettings(), "When a replica refuses a request that it cannot start soon."
    )
    guard: GuardSettings = option(GuardSettings(), "What the model is told and kept from saying.")
    usage: UsageSettings = option(UsageSettings(), "The record of what each key used.")
    scaling: ScalingSettings = option(ScalingSettings(), "How many replicas run, and when their number changes.")
    hardware: HardwareSettings = option(HardwareSettings(), "What a replica runs on.")
    vllm: VllmSettings = option(VllmSettings(), "vLLM's engine arguments that operators set most.")
    log: LogSettings = option(LogSettings(), "What is written to stderr.")
    tracing: TracingSettings = option(TracingSettings(), "OpenTelemetry spans of every request.")

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
