"""The Sender Rewriting Scheme: envelope senders that a forwarder can answer for, and the way back from them.

The form is the one in use (Wong, "The Sender Rewriting Scheme", 2003; Mail::SRS and libsrs2 read it):
`SRS0=HASH=TT=DOMAIN=LOCAL@FORWARDER`, and `SRS1=HASH=FIRST==...@SECOND` where a forwarder gets what another one has
rewritten, so that an address never grows with the number of forwarders. The hash is the first 30 bits of an
HMAC-SHA-256 in base32, over text in lower case, because servers on the way may change the case of a local part.
Must not know the clock, the recipients, or which senders are to be rewritten.
"""

import base64
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from relayproxy.model.address import Address

LONGEST_LOCAL = 64
"""Octets of a local part (RFC 5321 section 4.5.3.1.1)."""

_DAY = 86_400
_CYCLE = 1024  # days after which a timestamp of two characters comes again
_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_HASH = 6
_LONGEST_READ = 512  # octets of a local part that are looked at; no server has to take more than 64

_TAGGED = re.compile(r"srs[01][=+-]", re.IGNORECASE)
_SRS0 = re.compile(r"[=+-]([A-Za-z2-7]{6})=([A-Za-z2-7]{2})=([^=\s]{1,253})=(.*)\Z", re.DOTALL)
_SRS1 = re.compile(r"[=+-]([A-Za-z2-7]{6})=([^=\s]{1,253})=([=+-].*)\Z", re.DOTALL)
_ATOMS = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+)*\Z"
)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_HOST = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\Z")


class SrsFault(Exception):  # noqa: N818  (it is what is wrong with the address)
    """An SRS address that isn't good: `kind` is "forged", "expired" or "malformed", the text says it in words."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Srs:
    """Rewrites senders into `domain` (A-labels) and reads them back.

    Of the `keys` the first makes hashes and all of them verify, so that a new one can be put in front and an old one
    taken away when what it made has expired. An address is good for `days` whole days. Raises ValueError without a
    key, or for a number of days that a timestamp can't tell.
    """

    domain: str
    keys: Sequence[bytes]
    days: int = 21

    def __post_init__(self) -> None:
        if not self.keys or not all(self.keys):
            raise ValueError("there is no key")
        if not 1 <= self.days < _CYCLE - 1:
            raise ValueError(f"days are 1 to {_CYCLE - 2}")

    def forward(self, sender: Address, now: float) -> Address | None:
        """Return the address to send from in place of `sender`; `now` in seconds since the epoch.

        None if it can't be done: the null sender, a sender without a host name for a domain, or one for which the
        local part would have more than 64 octets.
        """
        host = sender.ascii_domain
        if not _HOST.match(host) or len(sender.local) > _LONGEST_READ:
            return None
        local = _unquoted(sender.local)
        if _TAGGED.match(local) and (chained := self._chained(local, host)):
            rewritten = chained
        else:
            stamp = _stamp(now)
            hash_ = self._hash(self.keys[0], "srs0", stamp, host, local)
            rewritten = f"SRS0={hash_}={stamp}={host}={local}"
        made = _quoted(rewritten)
        return None if len(_octets(made)) > LONGEST_LOCAL else Address(made, self.domain)

    def _chained(self, local: str, host: str) -> str:
        """Return SRS1 for what another forwarder has rewritten; "" for what only looks like it."""
        kind, rest = local[:4].upper(), local[4:]
        if kind == "SRS0":
            first = host
        else:
            found = _SRS1.match(rest)
            if not found:
                return ""
            first, rest = found[2], found[3]
        return f"SRS1={self._hash(self.keys[0], 'srs1', first, rest)}={first}={rest}"

    def reverse(self, address: Address, now: float) -> Address | None:
        """Return where a bounce to `address` goes: the original sender, or the forwarder before us.

        None if it isn't an SRS address of this domain. Raises SrsFault if it is one, but not a good one.
        """
        local = _unquoted(address.local[: _LONGEST_READ + 3])
        if address.ascii_domain != self.domain or not _TAGGED.match(local):
            return None
        if len(local) > _LONGEST_READ:
            raise SrsFault("malformed", "the rewritten address is too long")
        return self._first(local[4:], now) if local[3] == "0" else self._further(local[4:])

    def _first(self, rest: str, now: float) -> Address:
        found = _SRS0.match(rest)
        if not found or not _HOST.match(found[3]):
            raise SrsFault("malformed", "this is not a complete rewritten address")
        hash_, stamp, host, local = found.groups()
        self._verify(hash_, "srs0", stamp, host, local)
        age = (int(now // _DAY) - _day(stamp)) % _CYCLE
        if age > self.days and age != _CYCLE - 1:  # tomorrow: another machine's clock may be ahead of ours
            raise SrsFault("expired", f"the rewritten address was good for {self.days} days, which are over")
        return Address(_quoted(local), host)

    def _further(self, rest: str) -> Address:
        found = _SRS1.match(rest)
        if not found or not _HOST.match(found[2]):
            raise SrsFault("malformed", "this is not a complete rewritten address")
        hash_, host, inner = found.groups()
        self._verify(hash_, "srs1", host, inner)
        return Address(_quoted(f"SRS0{inner}"), host)

    def _verify(self, hash_: str, *parts: str) -> None:
        given = hash_.lower().encode()
        good = [hmac.compare_digest(given, self._hash(key, *parts).encode()) for key in self.keys]
        if not any(good):
            raise SrsFault("forged", "the rewritten address was not made here, or was changed")

    @staticmethod
    def _hash(key: bytes, *parts: str) -> str:
        # Only ASCII letters: others must not become alike that aren't the same mailbox.
        text = _octets("=".join(parts)).lower()
        return base64.b32encode(hmac.digest(key, text, sha256)[:5])[:_HASH].decode().lower()


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _stamp(now: float) -> str:
    high, low = divmod(int(now // _DAY) % _CYCLE, 32)
    return _BASE32[high] + _BASE32[low]


def _day(stamp: str) -> int:
    high, low = (_BASE32.index(char) for char in stamp.lower())
    return high * 32 + low


def _unquoted(local: str) -> str:
    """Return what a local part means: without quotes, if it has any (RFC 5321 section 4.1.2)."""
    if len(local) > 1 and local[0] == local[-1] == '"':
        return _QUOTED_PAIR.sub(r"\1", local[1:-1])
    return local


def _quoted(local: str) -> str:
    """Return a local part as it is written, in quotes only where it needs them."""
    if _ATOMS.match(local):
        return local
    escaped = local.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'
