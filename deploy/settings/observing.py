"""What the server writes down."""

from pathlib import Path
from typing import Literal

from deploy.settings.fields import Group, option


class LogSettings(Group):
    """What is written to stderr."""

    level: Literal["debug", "info", "warning", "error"] = option(
        "info", "Least severity of what mistral-serve itself writes.", flag="log-level"
    )
    engine_level: Literal["debug", "info", "warning", "error"] = option(
        "warning", "Least severity of what vLLM and Ray write.", flag="engine-log-level"
    )
    access: bool = option(True, "Write one line for every finished request, without its text.")
    format: Literal["console", "json"] = option("console", "How a line of the access log is written.")


class UsageSettings(Group):
    """The record of what each key used, without any text."""

    directory: Path | None = option(
        None,
        "Directory of the usage log: one JSON line for every request, read by `python -m deploy.usage`.",
        unset="metrics only",
    )
    progress_s: float = option(
        10,
        "A running request is written down this often, so that little is lost with a replica that dies.",
        unit="s",
        ge=1,
        le=3600,
    )


class TracingSettings(Group):
    """OpenTelemetry spans of every request."""

    otlp_endpoint: str | None = option(
        None,
        "OTLP/HTTP endpoint that spans are sent to, for example http://collector:4318/v1/traces.",
        unset="no tracing",
        min_length=1,
    )
    sample_ratio: float = option(
        1.0, "Share of the requests that are traced, unless the caller's `traceparent` decides.", ge=0, le=1
    )
