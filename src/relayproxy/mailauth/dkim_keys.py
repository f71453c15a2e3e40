"""Private keys for DKIM signatures: RSA (RFC 6376, RFC 8301) and Ed25519 (RFC 8463), through `cryptography`.

Reads key material, never files. A key's repr shows nothing of it.
"""

import base64
import binascii
from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

LEAST_BITS = 1024
_SEED = 32


class KeyFault(Exception):  # noqa: N818  (it is what is wrong with the key)
    """The key can't be used; the text says why and holds nothing of it."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key: `algorithm` is "rsa-sha256" or "ed25519-sha256", `bits` its size."""

    algorithm: str
    bits: int
    _key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey = field(repr=False)

    def sign(self, data: bytes) -> bytes:
        """Sign the canonical header fields `data`; Ed25519 signs their SHA-256 (RFC 8463 section 3)."""
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(data, _PADDING, _SHA256)
        digest = hashes.Hash(_SHA256)
        digest.update(data)
        return self._key.sign(digest.finalize())

    def record(self) -> str:
        """Return the text of the TXT record that publishes the public key (RFC 6376 section 3.6.1)."""
        public = self._key.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            raw = public.public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            return f"v=DKIM1; k=rsa; p={base64.b64encode(raw).decode()}"
        raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return f"v=DKIM1; k=ed25519; p={base64.b64encode(raw).decode()}"


_PADDING = padding.PKCS1v15()
_SHA256 = hashes.SHA256()


def read_key(data: bytes) -> SigningKey:
    """Read a private key: PEM (PKCS#1 or PKCS#8), or the bare base64 of an Ed25519 seed. Raises KeyFault."""
    if b"-----BEGIN" not in data:
        return _seed(data)
    try:
        key = serialization.load_pem_private_key(data, None)
    except TypeError:
        raise KeyFault("the key is encrypted with a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFault("not a private key in PEM form") from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return SigningKey("ed25519-sha256", 256, key)
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < LEAST_BITS:
            raise KeyFault(f"{key.key_size} bits are too few: RFC 8301 wants {LEAST_BITS}, better 2048")
        return SigningKey("rsa-sha256", key.key_size, key)
    raise KeyFault("the key is neither RSA nor Ed25519")


def _seed(data: bytes) -> SigningKey:
    try:
        seed = base64.b64decode(data.strip(), validate=True)
    except binascii.Error:
        raise KeyFault("neither a PEM file nor base64") from None
    if len(seed) != _SEED:
        raise KeyFault(f"an Ed25519 seed has {_SEED} octets, this has {len(seed)}")
    return SigningKey("ed25519-sha256", 256, ed25519.Ed25519PrivateKey.from_private_bytes(seed))
