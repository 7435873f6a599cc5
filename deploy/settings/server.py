"""Where the server listens."""

import ipaddress
from pathlib import Path
from typing import Self

from pydantic import model_validator

from deploy.settings.fields import Group, option


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


class TlsSettings(Group):
    """Encrypted connections. Both files or none; none means plain HTTP, or that something in front ends TLS."""

    certificate_file: Path | None = option(
        None,
        "PEM file of the certificate and its chain; a changed file takes effect without a restart.",
        unset="plain HTTP",
    )
    key_file: Path | None = option(None, "PEM file of the certificate's private key.", unset="plain HTTP")

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.certificate_file is None) != (self.key_file is None):
            missing = "key_file" if self.key_file is None else "certificate_file"
            raise ValueError(f"TLS needs a certificate and its key: give {missing} too")
        return self

    @property
    def enabled(self) -> bool:
        """Whether the server speaks HTTPS itself."""
        return self.certificate_file is not None

    @property
    def scheme(self) -> str:
        """Of the server's URL."""
        return "https" if self.enabled else "http"
