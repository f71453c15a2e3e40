"""A throw-away certificate for the STARTTLS cells (RSA-2048, as most mail servers have) and a DKIM key."""

import datetime as dt
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


def write_key(path: Path) -> rsa.RSAPrivateKey:
    """Write a new RSA-2048 key (PKCS #8, PEM) that only its owner can read."""
    key = rsa.generate_private_key(65537, 2048)
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """The paths of a self-signed certificate and its key in `folder`, written once."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    if not cert.exists():
        private = write_key(key)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench.example")])
        now = dt.datetime.now(dt.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=30))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("bench.example")]), critical=False)
            .sign(private, hashes.SHA256())
        )
        cert.write_bytes(made.public_bytes(Encoding.PEM))
    return cert, key
