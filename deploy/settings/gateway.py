"""Who may call the server, how much one request may ask for, and how much a key may use."""

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from deploy.settings.fields import Group, option


class GatewaySettings(Group):
    """Who may call the server."""

    keys: Literal["auto", "on", "off"] = option(
        "auto",
        "Whether requests need an API key. `auto`: when `gateway.keys_file` is given, or the server listens beyond "
        "loopback, on a Ray cluster where Ray Serve does.",
    )
    keys_file: Path | None = option(
        None,
        "File of API keys, made by `python -m deploy.keys`; a change takes effect without a restart.",
        unset="no keys",
    )
    open_metrics: bool = option(False, "Answer `/metrics` without a key where requests need one.")


class LimitSettings(Group):
    """What one request, and one key, may ask for. The model's own length bounds prompts and completions besides."""

    enabled: bool = option(True, "Hold requests to these limits.")
    body_bytes: int = option(4 * 1024**2, "Largest request body.", unit="bytes", ge=1024, le=1024**3)
    header_bytes: int = option(
        8192, "Largest sum of a request's header names and values.", unit="bytes", ge=1024, le=14336
    )
    messages: int = option(1024, "Most messages in one chat request.", unit="messages", ge=1, le=100_000)
    prompts: int = option(64, "Most prompts in one completion request.", unit="prompts", ge=1, le=10_000)
    n: int = option(8, "Most completions of one prompt (`n` and `best_of`).", unit="completions", ge=1, le=1024)
    max_tokens: int | None = option(
        None,
        "Most tokens that one completion may ask for.",
        unset="what the model's length leaves",
        unit="tokens",
        ge=1,
        le=10_000_000,
    )
    prompt_tokens: int | None = option(
        None, "Longest prompt.", unset="what the model's length leaves", unit="tokens", ge=1, le=10_000_000
    )
    request_s: float = option(
        600, "Longest time that one request may take, streams included.", unit="s", gt=0, le=86400
    )
    requests_per_key: int = option(
        128, "Most requests of one key that one replica runs at once.", unit="requests", ge=1, le=100_000
    )


class QuotaSettings(Group):
    """How much a key may use in a minute, over all replicas. A key's own quota in its file comes before these."""

    enabled: bool = option(True, "Hold keys to their quotas.")
    requests_per_minute: int | None = option(
        None,
        "Requests per minute of a key without a quota of its own.",
        unset="no limit",
        unit="requests",
        ge=1,
        le=10**9,
    )
    tokens_per_minute: int | None = option(
        None,
        "Tokens per minute, of prompts and completions together, of a key without a quota of its own.",
        unset="no limit",
        unit="tokens",
        ge=1,
        le=10**12,
    )
    storage: Literal["ray", "redis"] = option(
        "ray",
        "Where the counts are kept: in an actor of the Ray cluster (of a deployment that never has more than one "
        "replica: in that), or in Redis, where they survive the cluster.",
    )
    redis_url: str | None = option(
        None,
        "Redis to keep counts in, as redis://HOST:PORT/DATABASE (rediss:// for TLS), without a password.",
        unset="no Redis",
        min_length=1,
    )
    redis_password_file: Path | None = option(None, "File that holds Redis's password.", unset="no password")
    on_failure: Literal["allow", "refuse"] = option(
        "allow", "Requests while the counts cannot be reached: let them pass, or answer 503."
    )

    @model_validator(mode="after")
    def _redis_is_named(self) -> Self:
        if self.storage == "redis" and self.redis_url is None:
            raise ValueError("storage redis needs redis_url: give it as redis://HOST:PORT/DATABASE")
        return self


class AdmissionSettings(Group):
    """When a replica refuses a request that it cannot start soon. Its queue holds `vllm.max_num_queued_reqs`."""

    enabled: bool = option(True, "Refuse at once, with 429 and Retry-After, what could not start in time.")
    max_queue_wait_s: float = option(
        10, "Longest wait before the first token that a request may be accepted with.", unit="s", gt=0, le=3600
    )
