"""Which mail a bounce is about: a signed token, as an envelope sender (VERP) and as a header field.

A token holds the id of the message and, as far as there is room, the tenant, the campaign and the recipient:
`HASH=DAY=ID=TENANT=CAMPAIGN=RECIPIENT`. HASH is 60 bits of an HMAC-SHA-256 in base32, over text in lower case, as servers
on the way may change the case of a local part; DAY tells until when a bounce is taken. Must not know the clock, the
message, or what a tenant is.
"""

import base64
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from relayproxy.model.address import Address

LONGEST_LOCAL = 64
"""Octets of a local part (RFC 5321 section 4.5.3.1.1)."""

_DAY = 86_400
_CYCLE = 1024
_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_LONGEST_READ = 1000
_FORM = re.compile(
    r"([a-z2-7]{12})=([a-z2-7]{2})=([a-z0-9_.~-]{1,80})=([a-z0-9_.~-]*)=([a-z0-9_.~-]*)=([a-z0-9_.~-]*)\Z"
)
_UNSAFE = re.compile(r"[^a-z0-9_.-]|(?<![^.])\.|\.(?![^.])")
_ESCAPED = re.compile(r"(?:~[0-9a-f]{2})+")
_PREFIX = re.compile(r"[a-z0-9_-]{1,16}\Z")


class TraceFault(Exception):  # noqa: N818  (it is what is wrong with the token)
    """A token that isn't good: `kind` is "forged", "expired" or "malformed", the text says it in words."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Trace:
    """What a token ties a bounce to; all in lower case, "" for what isn't known."""

    message: str
    tenant: str = ""
    campaign: str = ""
    recipient: str = ""


@dataclass(frozen=True, slots=True)
class Tracer:
    """Makes tokens and reads them back, for bounces to `prefix+TOKEN@domain` (A-labels).

    Of the `keys` the first makes hashes and all of them verify. A token is good for `days` whole days. Raises ValueError
    without a key, for a number of days that a token can't tell, or a prefix that isn't made of a few plain characters.
    """

    domain: str
    keys: Sequence[bytes]
    days: int = 30
    prefix: str = "b"

    def __post_init__(self) -> None:
        if not self.keys or not all(self.keys):
            raise ValueError("there is no key")
        if not 1 <= self.days < _CYCLE - 1:
            raise ValueError(f"days are 1 to {_CYCLE - 2}")
        if not _PREFIX.match(self.prefix):
            raise ValueError(f"{self.prefix!r} is not 1 to 16 letters (lower case), digits, - or _")

    def token(self, trace: Trace, now: float) -> str:
        """Return the token of a message; `now` in seconds since the epoch. It has no characters that need quotes."""
        names = (trace.message, trace.tenant, trace.campaign, trace.recipient)
        held = "=".join(map(_escaped, names))
        stamp = _stamp(now)
        return f"{self._hash(self.keys[0], stamp, held)}={stamp}={held}"

    def address(self, trace: Trace, now: float) -> Address:
        """Return the envelope sender for a message.

        What 64 octets have no room for is left out: the recipient first, then the campaign, then the tenant. Raises
        ValueError for a message id that alone is too long.
        """
        for held in (
            trace,
            replace(trace, recipient=""),
            replace(trace, recipient="", campaign=""),
            Trace(trace.message),
        ):
            local = f"{self.prefix}+{self.token(held, now)}"
            if len(local) <= LONGEST_LOCAL:
                return Address(local, self.domain)
        raise ValueError(f"no address has room for the id {trace.message!r}")

    def is_ours(self, address: Address) -> bool:
        """Whether an address is in the form of ours, good or not."""
        lead = f"{self.prefix}+"
        return address.local[: len(lead)].lower() == lead and address.ascii_domain == self.domain

    def read_address(self, address: Address, now: float) -> Trace | None:
        """Return what a bounce to `address` is about; None for other addresses. Raises TraceFault for a bad one."""
        return self.read(address.local[len(self.prefix) + 1 :], now) if self.is_ours(address) else None

    def read(self, token: str, now: float) -> Trace:
        """Return what a token ties a bounce to. Raises TraceFault for one that isn't good."""
        found = _FORM.match(token.strip().lower()) if len(token) <= _LONGEST_READ else None
        if not found:
            raise TraceFault("malformed", "this is not a complete bounce address")
        given, stamp = found[1].encode(), found[2]
        held = "=".join(found.groups()[2:])
        good = [hmac.compare_digest(given, self._hash(key, stamp, held).encode()) for key in self.keys]
        if not any(good):
            raise TraceFault("forged", "the bounce address was not made here, or was changed")
        age = (int(now // _DAY) - _day(stamp)) % _CYCLE
        if age > self.days and age != _CYCLE - 1:  # tomorrow: another machine's clock may be ahead of ours
            raise TraceFault("expired", f"the bounce address was good for {self.days} days, which are over")
        return Trace(*map(_unescaped, found.groups()[2:]))

    @staticmethod
    def _hash(key: bytes, *parts: str) -> str:
        text = "=".join(("trace", *parts)).encode()
        return base64.b32encode(hmac.digest(key, text, sha256)[:10])[:12].decode().lower()


def _escaped(text: str) -> str:
    # ASCII letters alone are folded: others must not become alike that aren't the same mailbox.
    folded = "".join(char.lower() if char.isascii() else char for char in text[:320])
    return _UNSAFE.sub(lambda found: "".join(f"~{octet:02x}" for octet in _octets(found[0])), folded)


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda run: bytes.fromhex(run[0].replace("~", "")).decode("utf-8", "replace"), text)


def _stamp(now: float) -> str:
    high, low = divmod(int(now // _DAY) % _CYCLE, 32)
    return _BASE32[high] + _BASE32[low]


def _day(stamp: str) -> int:
    high, low = (_BASE32.index(char) for char in stamp)
    return high * 32 + low
