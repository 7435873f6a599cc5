"""The server's TLS certificate and key: checked before anything starts, and put together as HAProxy reads them."""

import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from deploy.errors import UsageError
from deploy.settings import Settings, TlsSettings

SOON = timedelta(days=14)
"""A certificate that ends within this time is warned of."""


@dataclass(frozen=True)
class Certificate:
    """``bundle``: the chain and the private key in PEM, in the one file that HAProxy takes (``crt``)."""

    bundle: bytes
    begins: datetime
    ends: datetime

    def warnings(self, now: datetime) -> Iterator[str]:
        """What clients will, or will soon, refuse it for."""
        if now < self.begins:
            yield f"the TLS certificate begins on {self.begins:%Y-%m-%d %H:%M} UTC: clients refuse it until then"
        elif now >= self.ends:
            yield f"the TLS certificate ended on {self.ends:%Y-%m-%d %H:%M} UTC: clients refuse it"
        elif now >= self.ends - SOON:
            yield f"the TLS certificate ends on {self.ends:%Y-%m-%d %H:%M} UTC: replace it before"


def check(settings: Settings) -> list[str]:
    """The warnings that the certificate of ``settings.tls`` earns; none without TLS.

    Raises:
        UsageError: a file cannot be used, the two do not belong together, or a rehearsal asks for TLS.
    """
    if not settings.tls.enabled:
        return []
    if settings.rehearse:
        raise UsageError("a rehearsal measures over plain HTTP: leave tls.certificate_file and tls.key_file out")
    return list(read(settings.tls).warnings(datetime.now(UTC)))


def refuse_on_cluster(settings: Settings) -> None:
    """Refuse TLS where Ray's own proxies listen, which the certificate never reaches.

    Raises:
        UsageError: TLS is set.
    """
    if settings.tls.enabled:
        raise UsageError(
            "on a Ray cluster its own proxies listen, and they speak plain HTTP: "
            "leave tls.certificate_file and tls.key_file out, and end TLS in front of the cluster"
        )


def read(settings: TlsSettings) -> Certificate:
    """The certificate and key that the settings name.

    Raises:
        UsageError: a file cannot be read or used, or the key is not the certificate's; nothing of the key is quoted.
    """
    chain = _content("tls.certificate_file", settings.certificate_file)
    key = _content("tls.key_file", settings.key_file)
    try:
        certificate = x509.load_pem_x509_certificates(chain)[0]
    except ValueError:
        raise UsageError(
            f"tls.certificate_file {settings.certificate_file} holds no certificate: give a PEM file of the "
            "certificate and its chain"
        ) from None
    try:
        matches = load_pem_private_key(key, None).public_key() == certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UsageError(
            f"tls.key_file {settings.key_file} holds no usable private key: give a PEM file of the certificate's key, "
            "not encrypted"
        ) from None
    if not matches:
        raise UsageError(
            f"tls.key_file {settings.key_file} is not the key of tls.certificate_file {settings.certificate_file}: "
            "give the two files that were made together"
        )
    bundle = chain.rstrip() + b"\n" + key
    _unless_openssl_takes(bundle, settings)
    return Certificate(bundle, certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def _content(setting: str, path: Path | None) -> bytes:
    assert path is not None
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{setting} {path} cannot be read ({error.strerror}): mend it or its permissions") from None


def _unless_openssl_takes(bundle: bytes, settings: TlsSettings) -> None:
    """Refuse what OpenSSL would not serve, a key that is too short for example."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(bundle)
        file.flush()
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file.name)
        except ssl.SSLError as error:
            reason = (error.reason or "unknown reason").lower().replace("_", " ")
            raise UsageError(
                f"OpenSSL does not take tls.certificate_file {settings.certificate_file} ({reason}): make another one"
            ) from None
