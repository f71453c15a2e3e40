"""The ways on: pairs of an upstream and a local address, and which of them a message takes.

The choice follows from the message's id alone, so that all its transactions and later attempts take the same way as long
as it is open. Must not know connections.
"""

import hashlib
import math
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from relayproxy.core.ports import WatchedHop
from relayproxy.core.shaping import Shape
from relayproxy.delivery.warmup import Warmup


@dataclass(frozen=True, slots=True)
class Way:
    """One upstream from one local address (`source`, "" for any). `weight` is a share; 0: when no other is open.

    `hop(shape)` returns the next hop as a shape wants it.
    """

    name: str
    hop: Callable[[Shape | None], WatchedHop] = field(compare=False, repr=False)
    weight: float = 1.0
    source: str = ""
    warmups: tuple[Warmup, ...] = ()


def in_turn(ways: Sequence[Way], key: str) -> Iterator[Way]:
    """Return the ways in the order in which the message `key` tries them.

    Weighted rendezvous hashing (Thaler and Ravishankar 1998): of many keys each way comes first for a share by its weight,
    and if one is taken away, only its own keys go elsewhere.
    """
    return iter(sorted(ways, key=lambda way: _rank(way, key), reverse=True))


def _rank(way: Way, key: str) -> tuple[bool, float]:
    digest = hashlib.blake2b(f"{way.name}\0{key}".encode("utf-8", "replace"), digest_size=8).digest()
    draw = ((int.from_bytes(digest) >> 12) + 0.5) / 2**52  # above 0 and below 1
    return way.weight > 0, (way.weight or 1.0) / -math.log(draw)


def fitting(addresses: Sequence[str], source: str) -> list[str]:
    """Return those of IP addresses that can be reached from a local address, "" for any."""
    if not source:
        return list(addresses)
    version = ip_address(source).version
    return [one for one in addresses if ip_address(one).version == version]


def bind_problem(source: str) -> str:
    """Return why a local address can't be used just now, or ""."""
    family = socket.AF_INET6 if ip_address(source).version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.bind((source, 0))
    except OSError as error:
        return error.strerror or str(error)
    return ""
