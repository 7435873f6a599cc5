"""Gives HAProxy a new certificate when its files change, without a reload and without cutting a connection."""

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from deploy.certificate import Certificate, read
from deploy.errors import UsageError
from deploy.gateway.key_store import version_of
from deploy.proxy_admin import replace_certificate
from deploy.settings import TlsSettings

Version = tuple[tuple[int, ...] | None, ...]
logger = logging.getLogger("mistral-serve")


class CertificateWatch:
    """The certificate of one HAProxy.

    Args:
        settings: the files to watch; TLS must be enabled.
        bundle: the file that HAProxy reads when it starts or is reloaded.
        admin_socket: tells HAProxy's admin socket once HAProxy runs.

    Raises:
        UsageError: the files cannot be used.
    """

    def __init__(self, settings: TlsSettings, bundle: Path, admin_socket: Callable[[], Path]) -> None:
        self._settings, self._bundle, self._admin_socket = settings, bundle, admin_socket
        self._used = self._seen = self._version()
        self._certificate = read(settings)
        self._write(self._certificate)

    def refresh(self) -> None:
        """Look at the files, and use them when they changed and are no longer being written.

        What cannot be used is warned of once, and the certificate stays.
        """
        version = self._version()
        settled, self._seen = version == self._seen, version
        if version == self._used or not settled:
            return
        before, self._used = self._used, version
        try:
            self._use(read(self._settings))
        except UsageError as error:
            logger.warning("%s; the certificate read before stays in use", error)
        except OSError as error:
            # HAProxy may be between two processes of its own, so the next look tries again.
            self._used = before
            self._keep(str(error))

    def _use(self, certificate: Certificate) -> None:
        # First the file, which a reload of HAProxy would read meanwhile.
        self._write(certificate)
        complaint = replace_certificate(self._admin_socket(), self._bundle, certificate.bundle)
        if complaint is not None:
            self._keep(complaint)
            return
        self._certificate = certificate
        logger.info("new TLS certificate in use, valid until %s UTC", f"{certificate.ends:%Y-%m-%d %H:%M}")
        for warning in certificate.warnings(datetime.now(UTC)):
            logger.warning("%s", warning)

    def _keep(self, complaint: str) -> None:
        self._write(self._certificate)
        logger.warning("HAProxy did not take the new certificate (%s); the one before stays in use", complaint)

    def _version(self) -> Version:
        return tuple(version_of(path) for path in (self._settings.certificate_file, self._settings.key_file) if path)

    def _write(self, certificate: Certificate) -> None:
        new = self._bundle.with_suffix(".new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(certificate.bundle)
        new.replace(self._bundle)
