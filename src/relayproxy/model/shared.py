"""Operations on the state that all workers share: counters, token buckets and values that end by themselves.

Values only: what each means is told by the stores (relayproxy.state). Must not know where anything is kept.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import TypeAlias

_LONGEST = 120


def shared_key(prefix: str, *parts: str) -> str:
    """Return a key of bounded length and plain characters for `parts`, whoever wrote them.

    Short, printable parts stay readable; others are hashed, so that two different lists never share a key.
    """
    if all(part.isascii() and part.isprintable() and "|" not in part for part in parts):
        key = "|".join((prefix, *parts))
        if len(key) <= _LONGEST:
            return key
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        octets = part.encode("utf-8", "surrogatepass")
        digest.update(len(octets).to_bytes(8))
        digest.update(octets)
    return f"{prefix}#{digest.hexdigest()}"


def _positive(name: str, number: float) -> None:
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} is {number!r}, wanted a number above zero")


def _plain(key: str) -> None:
    if not (key.isascii() and key.isprintable()) or not 0 < len(key) <= 2 * _LONGEST:
        raise ValueError(f"{key!r} is no key: use shared_key")


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket and what is to be taken from it.

    It holds at most `burst` tokens and gains `rate` a second. Raises ValueError when `cost` could never be met.
    """

    key: str
    rate: float
    burst: float
    cost: float = 1.0

    def __post_init__(self) -> None:
        _plain(self.key)
        _positive("the rate", self.rate)
        _positive("the burst", self.burst)
        _positive("the cost", self.cost)
        if self.cost > self.burst:
            raise ValueError(f"{self.cost} tokens will never be in a bucket of {self.burst}")


@dataclass(frozen=True, slots=True)
class Take:
    """Take from all of `buckets` or from none; the answer is a list of seconds to wait, 0.0 where there is enough."""

    buckets: tuple[Bucket, ...]


@dataclass(frozen=True, slots=True)
class Add:
    """Add to a counter; the answer is its new value.

    It is forgotten `ttl` seconds after it was last added to. With a `half_life` in seconds it decays: half of it
    is left after that time. An `amount` of 0 only reads.
    """

    key: str
    amount: float
    ttl: float
    half_life: float = 0.0

    def __post_init__(self) -> None:
        _plain(self.key)
        _positive("the ttl", self.ttl)
        if not math.isfinite(self.amount) or not (math.isfinite(self.half_life) and self.half_life >= 0):
            raise ValueError("an amount is a number, and a half-life is not negative")


@dataclass(frozen=True, slots=True)
class Get:
    """Read a text; the answer is None when there is none or its time is over."""

    key: str

    def __post_init__(self) -> None:
        _plain(self.key)


@dataclass(frozen=True, slots=True)
class _Text:
    """A text, and for how many seconds it is kept."""

    key: str
    text: str
    ttl: float

    def __post_init__(self) -> None:
        _plain(self.key)
        _positive("the ttl", self.ttl)
        self.text.encode()


@dataclass(frozen=True, slots=True)
class Put(_Text):
    """Keep a text for `ttl` seconds, in place of what was there; the answer is None."""


@dataclass(frozen=True, slots=True)
class PutNew(_Text):
    """Keep a text for `ttl` seconds unless there is one; the answer is the one that was there, or None."""


@dataclass(frozen=True, slots=True)
class Delete:
    """Forget a key of any kind; the answer is None."""

    key: str

    def __post_init__(self) -> None:
        _plain(self.key)


Operation: TypeAlias = Take | Add | Get | Put | PutNew | Delete
