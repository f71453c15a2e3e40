"""Where reports to the owners of domains go: the URIs of a `rua`, one after the other, and mailboxes among them.

Must not know in which record they stand, nor whether a report is wanted there.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote

from relayproxy.model.address import to_a_label
from relayproxy.model.legible import legible

LONGEST_NAME = 253
"""Octets of a domain name, written with dots."""

_MOST = 10  # places of one record
_SHOWN = 200  # characters of what is none
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_URI = re.compile(r"mailto:([^\s,!?]{1,400})(?:\?[^\s,!]*)?(?:!([0-9]{1,12})([kmgt]?))?\Z", re.IGNORECASE)
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*\Z")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")

_Place = TypeVar("_Place")


@dataclass(frozen=True, slots=True)
class Destination:
    """One mailbox for reports: `local`@`domain` (A-labels), and the most octets that it takes, 0 for any number."""

    local: str
    domain: str
    limit: int = 0

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A destination that gets no report; `temporary` if the answer may be another one later."""

    uri: str
    reason: str
    temporary: bool = False


def read_places(
    rua: str, read: Callable[[str], _Place | None], wanted: str
) -> tuple[tuple[_Place, ...], tuple[Refusal, ...]]:
    """Return the places that the URIs of a `rua` name, each once, and what in it is none; `wanted` says what could be."""
    found: dict[str, _Place] = {}
    refused: list[Refusal] = []
    for uri in filter(None, (part.strip() for part in rua.split(","))):
        place = read(uri)
        if place is None:
            refused.append(Refusal(legible(uri, _SHOWN), f"not {wanted}"))
        elif len(found) == _MOST and str(place) not in found:
            refused.append(Refusal(legible(uri, _SHOWN), f"more than {_MOST} destinations"))
        else:
            found.setdefault(str(place), place)
    return tuple(found.values()), tuple(refused)


def read_mailto(uri: str) -> Destination | None:
    """Return the mailbox of `mailto:address!10m`, None for what is none; in the address, "," and "!" are written as %2C and %21 (RFC 9989 section 4.7)."""
    match = _URI.match(uri)
    if match is None:
        return None
    local, at, domain = unquote(match[1], errors="replace").rpartition("@")
    domain = to_a_label(domain)
    labels = domain.split(".")
    if not (at and len(local) <= 64 and _LOCAL.match(local)):
        return None
    if len(labels) < 2 or len(domain) > LONGEST_NAME or not all(map(_LABEL.match, labels)):
        return None
    limit = int(match[2]) * _UNITS[match[3].lower()] if match[2] else 0
    return Destination(local, domain, limit)
