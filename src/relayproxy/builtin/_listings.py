"""DNS lists (RFC 5782): the names that are asked for, and what an answer is worth.

Pure: the questions are put by the dnsbl plugin. An answer that is no listing (an error code of the list, a
resolver that invents addresses) is told apart from one that is.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, ip_address
from typing import Literal, TypeAlias

from relayproxy.builtin._network import plain

Code: TypeAlias = "tuple[int, int] | int"
"""A range of addresses as numbers, or a bit of the last octet."""

_FIRST = int(IPv4Address("127.0.0.0"))
_LAST = int(IPv4Address("127.255.255.255"))
_ERRORS = int(
    IPv4Address("127.255.255.0")
)  # up to the end: the query was refused (no right, too many, a typo)
_NEVER = int(IPv4Address("127.0.0.1"))  # RFC 5782 section 2.1: no list returns it
_BIT = re.compile(r"&\s*(\d{1,3})\Z")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_ROOM = 253


def parse_code(text: str) -> Code:
    """Read `127.0.0.2`, `127.0.0.4-127.0.0.7`, `127.0.0.4-7`, or `&8` (a bit of the last octet). Raises ValueError."""
    bit = _BIT.match(text.strip())
    if bit:
        value = int(bit[1])
        if value not in (1, 2, 4, 8, 16, 32, 64, 128):
            raise ValueError(f"{text!r} is not one bit: &1, &2, &4, ... &128")
        return value
    low, dash, high = (part.strip() for part in text.partition("-"))
    if dash and "." not in high:
        high = f"{low.rpartition('.')[0]}.{high}"
    try:
        first = int(IPv4Address(low))
        last = int(IPv4Address(high)) if dash else first
    except ValueError:
        raise ValueError(
            f"{text!r} is no answer of a list: write 127.0.0.2, 127.0.0.4-127.0.0.7, or &8 for a bit"
        ) from None
    if not _FIRST <= first <= last <= _LAST:
        raise ValueError(f"{text!r}: answers of lists are from 127.0.0.0 to 127.255.255.255")
    return first, last


@dataclass(frozen=True, slots=True)
class Worth:
    """What an answer comes to: the codes that count, their score, and what in it is no listing."""

    codes: tuple[str, ...] = ()
    score: float = 0.0
    invalid: tuple[str, ...] = ()


def weigh(records: Iterable[object], weight: float, codes: Mapping[Code, float]) -> Worth:
    """Judge the A records of an answer.

    With `codes` only those count, each with its own score; without, each listing is worth `weight`. Of several
    codes the one that is worth most counts. Anything invalid makes the whole answer none.
    """
    listed: list[str] = []
    scores: list[float] = []
    invalid: list[str] = []
    for record in map(str, records):
        number = int(IPv4Address(record))
        if not _FIRST <= number < _ERRORS or number == _NEVER:
            invalid.append(record)
            continue
        matching = [score for code, score in codes.items() if _matches(code, number)] if codes else [weight]
        if matching:
            listed.append(record)
            scores.append(max(matching, key=abs))
    if invalid:
        return Worth(invalid=tuple(invalid))
    return Worth(tuple(sorted(listed)), max(scores, key=abs, default=0.0))


def _matches(code: Code, number: int) -> bool:
    return bool(number & code) if isinstance(code, int) else code[0] <= number <= code[1]


Kind = Literal["ip", "helo", "domain", "uri"]

SENTINELS: Mapping[str, str] = {
    "ip": "1.0.0.127",
    "helo": "invalid",
    "domain": "invalid",
    "uri": "invalid",
}
"""What no list has (RFC 5782 section 5): a list that has it lists the world."""


@lru_cache(4096)
def ip_label(ip: str) -> str:
    """Return an address as lists know it: octets, or nibbles, backwards (RFC 5782 sections 2.1 and 2.4)."""
    pointer = plain(ip).reverse_pointer
    return pointer.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")


def is_address(label: str) -> bool:
    """Whether a label is that of an address: it ends in an octet or a nibble, as no domain does."""
    last = label.rpartition(".")[2]
    return last.isdigit() or len(last) == 1


@lru_cache(4096)
def domain_label(name: str) -> str:
    """Return a domain (A-labels) or address literal as lists know it; "" for what can't be asked for."""
    text = name.lower().strip("[]").removeprefix("ipv6:").rstrip(".")
    try:
        return ip_label(str(ip_address(text)))
    except ValueError:
        pass
    labels = text.split(".")
    if len(labels) < 2 or len(text) > _ROOM or not all(_LABEL.match(label) for label in labels):
        return ""
    return text
