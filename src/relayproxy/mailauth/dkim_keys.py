"""Keys for DKIM: RSA (RFC 6376, RFC 8301) and Ed25519 (RFC 8463), with the arithmetic done by `cryptography`.

Reads key material and never files. What is wrong with a key is said without a word of the key. Must not know
messages, nor the tags of a key record.
"""

import base64
import binascii
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

LEAST_BITS = 1024  # RFC 8301 section 3.2
MOST_BITS = 8192  # the cost of a verification grows with the square of the length
_LARGEST_EXPONENT = 64  # bits; nobody uses more than 17, and a stranger's key must not keep us busy
_SEED = 32

_PADDING = padding.PKCS1v15()
_SHA256 = hashes.SHA256()


class KeyFault(Exception):  # noqa: N818  (it is what is wrong with the key)
    """The key can't be used; the text says why."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key: `kind` is "rsa" or "ed25519" as in the tag k=, `bits` its size."""

    kind: str
    bits: int
    _key: rsa.RSAPublicKey | ed25519.Ed25519PublicKey = field(repr=False)

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether `signature` is this key's of the canonical header fields `data`."""
        try:
            if isinstance(self._key, rsa.RSAPublicKey):
                self._key.verify(signature, data, _PADDING, _SHA256)
            else:
                self._key.verify(signature, sha256(data).digest())
        except InvalidSignature:
            return False
        return True

    @property
    def octets(self) -> bytes:
        """The key as it is published, before base64: SubjectPublicKeyInfo for RSA, the bare key for Ed25519."""
        if isinstance(self._key, rsa.RSAPublicKey):
            return self._key.public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        return self._key.public_bytes_raw()


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key: `algorithm` is "rsa-sha256" or "ed25519-sha256" as in the tag a=, `bits` its size."""

    algorithm: str
    bits: int
    _key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey = field(repr=False)

    def sign(self, data: bytes) -> bytes:
        """Sign the canonical header fields `data`; Ed25519 signs their SHA-256 (RFC 8463 section 3)."""
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(data, _PADDING, _SHA256)
        return self._key.sign(sha256(data).digest())

    @property
    def public(self) -> PublicKey:
        """The public half."""
        return PublicKey(self.algorithm.partition("-")[0], self.bits, self._key.public_key())

    def record(self) -> str:
        """Return the TXT record that publishes the public key (RFC 6376 section 3.6.1), in one piece."""
        public = self.public
        return f"v=DKIM1; k={public.kind}; p={base64.b64encode(public.octets).decode()}"

    def pem(self) -> bytes:
        """Return the key as a file holds it: PEM of PKCS#8, without a passphrase."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def new_rsa_key(bits: int = 2048) -> SigningKey:
    """Make an RSA key."""
    return SigningKey("rsa-sha256", bits, rsa.generate_private_key(65537, bits))


def new_ed25519_key() -> SigningKey:
    """Make an Ed25519 key."""
    return SigningKey("ed25519-sha256", 256, ed25519.Ed25519PrivateKey.generate())


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
        if not LEAST_BITS <= key.key_size <= MOST_BITS:
            raise KeyFault(
                f"RSA with {key.key_size} bits: {LEAST_BITS} to {MOST_BITS} will do, best are 2048"
            )
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


def read_public_key(kind: str, octets: bytes) -> PublicKey:
    """Read a published key: `kind` is k=, `octets` what p= holds. Raises KeyFault.

    RSA is SubjectPublicKeyInfo or a bare RSAPublicKey, both of which are in use. A short key is read: judging
    it is the caller's business.
    """
    try:
        if kind == "ed25519":
            return PublicKey(kind, 256, ed25519.Ed25519PublicKey.from_public_bytes(octets))
        key = serialization.load_der_public_key(octets)
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFault(f"p= holds no {kind} key") from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise KeyFault("p= holds no rsa key")
    if key.key_size > MOST_BITS or key.public_numbers().e.bit_length() > _LARGEST_EXPONENT:
        raise KeyFault(f"the RSA key is larger than {MOST_BITS} bits, or its exponent is")
    return PublicKey(kind, key.key_size, key)
