"""Signed tokens for one-click unsubscribing: who unsubscribes from what, said by nobody but us (RFC 8058 section 3.1).

A token is `PAYLOAD.MAC`, both in base64 for URLs without padding. The payload is five lines of UTF-8: the version 2, the
day (since 1970-01-01), the list, the recipient and the scope; the MAC is the first 16 octets of its HMAC-SHA-256. Must not know the
clock, or what becomes of who unsubscribes.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

_VERSION = "2"
_DAY = 86_400
_MAC = 16
_LONGEST = 4096  # characters of a token that are looked at


class TokenFault(ValueError):  # noqa: N818  (it is what is wrong with the token)
    """The token isn't good; the message says why."""


@dataclass(frozen=True, slots=True)
class Unsubscription:
    """`recipient` (an address) doesn't want `list_id` any more; `day` is when the message was sent, since 1970.

    `scope` says whose mail that means: "global", "tenant:NAME" or "campaign:NAME".
    """

    list_id: str
    recipient: str
    day: int
    scope: str = "global"


def make_token(key: bytes, list_id: str, recipient: str, now: float, scope: str = "global") -> str:
    """Return a token; `now` is in seconds since the epoch. Raises ValueError without a key and for line ends."""
    if not key:
        raise ValueError("a token needs a key")
    if any("\n" in text for text in (list_id, recipient, scope)):
        raise ValueError("there is a line end in the list, the recipient or the scope")
    payload = "\n".join((_VERSION, str(int(now // _DAY)), list_id, recipient, scope)).encode()
    return f"{_written(payload)}.{_written(_mac(key, payload))}"


def read_token(token: str, keys: Sequence[bytes], now: float, days: int = 3650) -> Unsubscription:
    """Return what a token says that one of the `keys` has made, within `days` days. Raises TokenFault."""
    payload, mac = map(_octets, _halves(token))
    if not any(hmac.compare_digest(mac, _mac(key, payload)) for key in keys if key):
        raise TokenFault("it was not made here, or was changed")
    version, *rest = payload.decode().split("\n")
    if version != _VERSION or len(rest) != 4:
        raise TokenFault("its version is not known")
    day, list_id, recipient, scope = rest
    if int(now // _DAY) - int(day) > days:
        raise TokenFault(f"it was good for {days} days")
    return Unsubscription(list_id, recipient, int(day), scope)


def _mac(key: bytes, payload: bytes) -> bytes:
    return hmac.new(key, payload, sha256).digest()[:_MAC]


def _halves(token: str) -> tuple[str, str]:
    payload, dot, mac = token[: _LONGEST + 1].partition(".")
    if not dot or len(token) > _LONGEST or not token.isascii():
        raise TokenFault("it is malformed")
    return payload, mac


def _written(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def _octets(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise TokenFault("it is malformed") from None
