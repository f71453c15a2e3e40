"""What a fact is, and the view of a mail that computes each of them once; which facts there are is in fact_table.

A fact is folded for comparing (lower case, A-labels); `told` has it as it was written, for texts. Must not know how
facts are compared or what follows from them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Protocol, TypeAlias

from relayproxy.api import Mail, Recipient
from relayproxy.mailauth.from_header import Anomaly, parse_mailbox
from relayproxy.model.encoded_words import decode_words
from relayproxy.model.mime import Part, Tree, read_tree

Ip: TypeAlias = IPv4Address | IPv6Address

_TEXT = re.compile(rb"[ \t]*(text/[a-z]+)[ \t]*(?:;|\Z)", re.IGNORECASE)
_CODED = re.compile(rb"[ \t]*(?:7bit|8bit|binary|base64|quoted-printable)[ \t]*\Z", re.IGNORECASE)
_FIELD = rb"\r\n(%b)[ \t]*:([^\r]*(?:\r(?!\n)[^\r]*|\r\n[ \t][^\r]*)*)"
_FEW = 20  # names that one pattern looks for
_NO_FIELDS: list[bytes] = []
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

    `words` are the values that a WORD can have; empty where only the configuration knows them. `fields` are the names, in
    lower case, of the header fields that it looks at.
    """

    name: str
    kind: Kind
    phase: Phase
    doc: str
    get: Callable[["Facts"], Any]
    many: bool = False
    rcpt: bool = False
    words: tuple[str, ...] = ()
    fields: tuple[bytes, ...] = ()
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
    fields: Mapping[bytes, list[bytes]] = field(init=False)
    search: Callable[[bytes], list[tuple[bytes, bytes]]] | None = field(init=False)

    def __post_init__(self) -> None:
        growing = tuple(name for name, fact in self.table.items() if fact.grows)
        object.__setattr__(self, "growing", growing)
        names = sorted({name for fact in self.table.values() for name in fact.fields})
        object.__setattr__(self, "fields", dict.fromkeys(names, _NO_FIELDS))
        # Few names are found sooner by a pattern than in a list of all fields.
        few = 0 < len(names) <= _FEW
        pattern = re.compile(_FIELD % b"|".join(map(re.escape, names)), re.IGNORECASE) if few else None
        object.__setattr__(self, "search", pattern.findall if pattern else None)


class Facts(dict[str, Any]):
    """The facts of one mail, computed when first asked for; the key is the name of a fact.

    `rcpt` is the recipient that is asked about. `findings` are those noted so far; `score` and `tags` grow as rules
    add to them, `answers` holds what had to be asked elsewhere. `now` is in seconds since the epoch.
    """

    __slots__ = (
        "_author",
        "_fields",
        "_tree",
        "added",
        "answers",
        "mail",
        "now",
        "rcpt",
        "table",
        "tagged",
        "world",
    )

    def __init__(self, mail: Mail, rcpt: Recipient | None, world: World, now: float) -> None:
        # Made for every message: nothing here that can wait until it is asked for.
        self.mail = mail
        self.rcpt = rcpt
        self.world = world
        self.table = world.table
        self.now = now
        self.added = 0.0
        self.tagged: list[str] = []
        self.answers: dict[Any, Any] = {}
        self._author: tuple[str, str] | None = None
        self._tree: Tree | None = None
        self._fields: dict[bytes, list[bytes]] | None = None

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

    def fields(self, name: bytes) -> list[bytes]:
        """The unfolded bodies of all fields called `name`, top to bottom. Raises KeyError if no fact has declared it."""
        fields = self._fields
        if fields is None:
            fields = self._fields = self._read()
        return fields[name]

    def _read(self) -> dict[bytes, list[bytes]]:
        """Read the fields that facts look at, once for all of them."""
        found = dict(self.world.fields)
        message = self.mail.message
        if self.world.search is not None:
            pairs: Iterable[tuple[bytes, bytes]] = self.world.search(b"\r\n" + message.head)
        else:
            pairs = [(one.name.encode(), one.raw.partition(b":")[2]) for one in message.fields]
        for written, body in pairs:
            name = written.lower()
            if name in found:
                before = found[name]
                if before is _NO_FIELDS:
                    before = found[name] = []
                before.append(body.replace(b"\r\n", b""))
        return found

    def header(self, name: bytes) -> tuple[str, ...]:
        """The values of all fields called `name` (lower case), encoded-words decoded."""
        raws = self.fields(name)
        return tuple([decoded(raw) for raw in raws]) if raws else ()

    def tree(self) -> Tree:
        """The MIME parts, as the strict reader sees them."""
        if self._tree is None:
            self._tree = read_tree(self.mail.message)
        return self._tree

    def plain(self) -> str:
        """The type of a message that is one text without a name, or ""; most are, and need no closer look."""
        kinds = self.fields(b"content-type")
        found = "text/plain"
        if kinds:
            simple = _TEXT.match(kinds[0])
            if not simple or len(kinds) > 1 or b"name" in kinds[0].lower():
                return ""
            found = simple[1].decode().lower()
        if self.fields(b"content-disposition"):
            return ""
        coded = self.fields(b"content-transfer-encoding")
        return "" if coded and (len(coded) > 1 or not _CODED.match(coded[0])) else found

    def files(self) -> tuple[Part, ...]:
        """The parts that are files."""
        return () if self.plain() else tuple(filter(_is_file, self.tree().root.walk()))

    def follow(self, mail: Mail) -> None:
        """Go on with the same mail at a later hook: forget what may have become known since."""
        self.mail = mail
        self.answers.clear()
        for name in self.world.growing:
            self.pop(name, None)

    def author(self) -> tuple[str, str]:
        """Local part and domain of From; "" where From names nobody or several."""
        if self._author is None:
            found = "", ""
            raws = self.fields(b"from")
            if len(raws) == 1:
                simple = _SIMPLE.match(raws[0])
                if simple:
                    found = simple[1].decode(), simple[2].decode().lower()
                else:
                    with suppress(Anomaly):
                        found = parse_mailbox(raws[0])
            self._author = found
        return self._author


def _is_file(part: Part) -> bool:
    """Whether a reader may show a part as a file: it has a name, says so, or is neither text nor a container."""
    said = part.described
    if part.children:
        # A multipart has a name only if no blank line ends its header: then it is that of its first part.
        return part.type.startswith("multipart/") and bool(said.names)
    return bool(said.names) or said.disposition == "attachment" or not part.type.startswith("text/")


def decoded(raw: bytes) -> str:
    """Return the body of a field as text, its encoded-words decoded."""
    text = raw.decode("utf-8", "replace").strip(" \t")
    return decode_words(text) if "=?" in text else text
