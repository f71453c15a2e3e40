"""Secrets that something is signed with: read, and long enough that nobody guesses them.

Must not know what is signed.
"""

from collections.abc import Iterable

from relayproxy.api import SecretError, SecretRef

SHORTEST = 16
"""Characters of a secret."""


def signing_keys(secrets: Iterable[SecretRef]) -> tuple[bytes, ...]:
    """Return the octets of each. Raises SecretError for one that can't be read or is too short."""
    keys = [(secret, secret.reveal()) for secret in secrets]
    for secret, key in keys:
        if len(key) < SHORTEST:
            raise SecretError(f"{secret} has less than {SHORTEST} characters")
    return tuple(key.encode() for _, key in keys)
