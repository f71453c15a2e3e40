"""What a fact is, and the view of a mail that computes each of them once; which facts there are is in fact_table.

A fact is folded for comparing (lower case, A-labels); `told` has it as it was written, for texts. Must not know how
facts are compared or what follows from them.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Protocol, TypeAlias

from relayproxy.api import Mail, Recipient
from relayproxy.mailauth.from_header import Anomaly, parse_mailbox
from relayproxy.model.encoded_words import decode_words
from relayproxy.model.parts import Part, parts_of

Ip: TypeAlias = IPv4Address | IPv6Address

_TEXT = re.compile(rb"[ \t]*text/[a-z]+[ \t]*(?:;|\Z)", re.IGNORECASE)
_SIMPLE = re.compile(  # what parse_mailbox reads in the same way, at a tenth of its cost
    rb"[A-Za-z0-9 ]*<([A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*)"
    rb"@((?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]+)> *\Z"
)


class Kind(StrEnum):
    """What a fact is, which says how it can be compared."""

    TEXT = "text"
    DOMAIN = "domain"
    ADDRESS = "address"
    IP = "ip"
    NUMBER = "number"
    SIZE = "size"
    BOOL = "boolean"
    WORD = "word"
    TIME = "time"


_FOLDED = frozenset({Kind.TEXT, Kind.DOMAIN, Kind.ADDRESS, Kind.WORD})


class Phase(IntEnum):
    """When a fact is known."""

    RCPT = 0
    MESSAGE = 1


CHECKS: Mapping[str, tuple[str, Phase]] = {
    "spf": ("spf", Phase.RCPT),
    "iprev": ("iprev", Phase.RCPT),
    "dkim": ("dkim_verify", Phase.MESSAGE),
    "arc": ("arc", Phase.MESSAGE),
    "dmarc": ("dmarc", Phase.MESSAGE),
}
"""Methods that can be written without `finding.`: the plugin that notes them, and when they are known at the latest."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One row: `many` facts have any number of values, `rcpt` ones differ between recipients.

    `words` are the values that a WORD can have; empty where only the configuration knows them.
    """

    name: str
    kind: Kind
    phase: Phase
    doc: str
    get: Callable[["Facts"], Any]
    many: bool = False
    rcpt: bool = False
    words: tuple[str, ...] = ()
    folded: bool = field(init=False)
    grows: bool = field(init=False)

    def fold(self, value: Any) -> Any:
        """Return a value as it is compared."""
        if self.many:
            return tuple([one.lower() for one in value]) if value else value
        return value.lower()

    def __post_init__(self) -> None:
        object.__setattr__(self, "folded", self.kind in _FOLDED)
        method = self.name.removeprefix("finding.").partition(".")[0]
        object.__setattr__(
            self, "grows", method == "direction" or self.name.startswith("finding.") or method in CHECKS
        )


@dataclass(frozen=True, slots=True)
class Family:
    """Facts whose names end as the admin wants: `header.list-id`. `make` reads the rest of the name."""

    prefix: str
    shape: str
    doc: str
    make: Callable[[str], Fact]


class Listed(Protocol):
    """A named list, as a fact is compared with it."""

    def holds(self, value: Any) -> bool:
        """Whether the folded value is in it."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """What facts need beside the mail: the facts that rules use by name, our domains, the lists."""

    table: Mapping[str, Fact]
    domains: frozenset[str] = frozenset()
    lists: Mapping[str, Listed] = field(default_factory=dict)
    hostname: str = ""
    growing: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        growing = tuple(name for name, fact in self.table.items() if fact.grows)
        object.__setattr__(self, "growing", growing)


class Facts(dict[str, Any]):
    """The facts of one mail, computed when first asked for; the key is the name of a fact.

    `rcpt` is the recipient that is asked about. `findings` are those noted so far; `score` and `tags` grow as rules
    add to them, `answers` holds what had to be asked elsewhere. `now` is in seconds since the epoch.
    """

    __slots__ = ("_headers", "_raw", "added", "answers", "mail", "now", "rcpt", "table", "tagged", "world")

    def __init__(self, mail: Mail, rcpt: Recipient | None, world: World, now: float) -> None:
        super().__init__()
        self.mail = mail
        self.rcpt = rcpt
        self.world = world
        self.table = world.table
        self.now = now
        self.added = 0.0
        self.tagged: list[str] = []
        self.answers: dict[Any, Any] = {}
        self._headers: dict[bytes, list[bytes]] | None = None
        self._raw: dict[str, Any] = {}

    def __missing__(self, name: str) -> Any:
        fact = self.table[name]
        value = self[name] = fact.fold(fact.get(self)) if fact.folded else fact.get(self)
        return value

    def told(self, name: str) -> Any:
        """The fact as it was written."""
        return self.table[name].get(self)

    def forget(self, name: str) -> None:
        """Compute a fact anew when it is next asked for."""
        self.pop(name, None)

    # -- header fields --------------------------------------------------------------------------------------

    @property
    def headers(self) -> dict[bytes, list[bytes]]:
        """The unfolded bodies of the fields, by name in lower case."""
        if self._headers is None:
            self._headers = _index(self.mail.message.head)
        return self._headers

    def header(self, name: bytes) -> tuple[str, ...]:
        """The values of all fields called `name` (lower case), encoded-words decoded."""
        headers = self._headers
        if headers is None:
            headers = self.headers
        raws = headers.get(name)
        return tuple([_decoded(raw) for raw in raws]) if raws is not None else ()

    def parts(self) -> tuple[Part, ...]:
        """The MIME parts."""
        found: tuple[Part, ...] | None = self._raw.get("parts")
        if found is None:
            found = self._raw["parts"] = parts_of(self.mail.message)
        return found

    def files(self) -> tuple[Part, ...]:
        """The parts that are files; most messages are plain text and need no closer look."""
        headers = self.headers
        kinds = headers.get(b"content-type")
        if b"content-disposition" not in headers and (
            kinds is None or (len(kinds) == 1 and _TEXT.match(kinds[0]) and b"name" not in kinds[0].lower())
        ):
            return ()
        return tuple(part for part in self.parts() if part.is_attachment)

    def follow(self, mail: Mail) -> None:
        """Go on with the same mail at a later hook: forget what may have become known since."""
        self.mail = mail
        self.answers.clear()
        for name in self.world.growing:
            self.pop(name, None)

    def author(self) -> tuple[str, str]:
        """Local part and domain of From; "" where From names nobody or several."""
        found: tuple[str, str] | None = self._raw.get("author")
        if found is None:
            found = "", ""
            raws = self.headers.get(b"from", ())
            if len(raws) == 1:
                simple = _SIMPLE.match(raws[0])
                if simple:
                    found = simple[1].decode(), simple[2].decode().lower()
                else:
                    with suppress(Anomaly):
                        found = parse_mailbox(raws[0])
            self._raw["author"] = found
        return found


def _index(head: bytes) -> dict[bytes, list[bytes]]:
    """Return the bodies of the fields by name; quicker than a list of all fields, which most rules don't need."""
    found: dict[bytes, list[bytes]] = {}
    for line in head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b"\t").split(b"\r\n"):
        name, colon, body = line.partition(b":")
        if colon:
            name = name.rstrip(b" \t").lower()
            if name in found:
                found[name].append(body)
            else:
                found[name] = [body]
    return found


def _decoded(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace").strip(" \t")
    return decode_words(text) if "=?" in text else text
