"""Self-signed certificates for 127.0.0.1, made for one test."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


def make(
    certificate: Path,
    key: Path,
    name: str = "one",
    *,
    begins: datetime | None = None,
    ends: datetime | None = None,
    rsa_bits: int | None = None,
    password: bytes | None = None,
) -> None:
    """Write a certificate called ``name`` and its key in PEM, in the place of what was there."""
    secret = ec.generate_private_key(ec.SECP256R1()) if rsa_bits is None else rsa.generate_private_key(65537, rsa_bits)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins or now - DAY)
        .not_valid_after(ends or now + 365 * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(secret, hashes.SHA256())
    )
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    replace(certificate, signed.public_bytes(Encoding.PEM))
    replace(key, secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))


def replace(path: Path, content: bytes) -> None:
    """A new file in the place of the old one, as a certificate manager writes it."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content)
    new.replace(path)


def name_in(pem: bytes | str) -> str:
    """The name of the certificate in ``pem``."""
    content = pem.encode() if isinstance(pem, str) else pem
    return str(x509.load_pem_x509_certificate(content).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
