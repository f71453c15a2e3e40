"""What is wrong with the attachments of a message: names, contents, archives. Facts only; bounded whatever arrives.

Must not know what follows from a problem.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias

from relayproxy.api import Message, printable
from relayproxy.builtin._archive_7z import list_7z
from relayproxy.builtin._archive_list import Listing, list_zip
from relayproxy.builtin._archive_rar import list_rar
from relayproxy.builtin._archive_tar import COMPRESSED, list_compressed, list_tar
from relayproxy.builtin._content_kinds import (
    ARCHIVES,
    HEAD,
    MACRO_FILES,
    UNLISTED,
    has_direction_trick,
    is_disguised,
    kind_of,
)
from relayproxy.model.file_names import extensions_of
from relayproxy.model.mime import Part, Tree
from relayproxy.model.mime_content import decoded_octets

Sort: TypeAlias = Literal[
    "dangerous",
    "disguised",
    "macros",
    "macros_autoexec",
    "macros_suspicious",
    "encrypted",
    "nested",
    "bomb",
    "unreadable",
]

_UUENCODED = re.compile(rb"(?:\A|\n)begin [0-7]{3,4} ([^\r\n]{1,200})")
_ELSEWHERE = ("message/partial", "message/external-body")  # RFC 2046 section 5.2
_MOST_UUENCODED = 20
_VBA = "_VBA_PROJECT".encode("utf-16-le")
_MACRO_ENTRY = re.compile(
    r"vbaproject\.bin\Z|(?:\A|/)macrosheets/", re.IGNORECASE
)  # [MS-OFFMACRO2], [MS-XLSB]
_SHOWN = 60  # characters of a name in a reply
_LISTERS = {"zip": list_zip, "rar": list_rar, "7z": list_7z, "tar": list_tar}
_BY_NAME = {**dict.fromkeys(("zip", "docx", "xlsx", "pptx"), "zip"), "rar": "rar", "7z": "7z", "tar": "tar"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for, and how far.

    `entries` are those of an archive, `octets` those of a part as encoded; the others are for all of a message.
    `all_unpacked` are the octets that may be unpacked to list compressed tar files.
    """

    extensions: frozenset[str]
    kinds: frozenset[str]
    entries: int
    ratio: float
    octets: int
    all_octets: int
    all_entries: int
    all_unpacked: int


@dataclass(slots=True)
class _Room:
    """What may still be read of a message."""

    octets: int
    entries: int
    unpacked: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with one part; `part` is None where it is the message as a whole.

    `name` is the attachment's, printable ASCII, `detail` ours but for an extension.
    """

    sort: Sort
    part: Part | None
    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class Document:
    """An office file that may hold macros, and whether it looks as if it did."""

    part: Part
    name: str
    has_macros: bool

    def problem(self, sort: Sort, detail: str) -> Problem:
        """Return a problem with it."""
        return Problem(sort, self.part, self.name, detail)


class Scan:
    """One message, looked at once."""

    def __init__(self, message: Message, tree: Tree, wanted: Wanted) -> None:
        self._unseen = tree.unseen
        room = _Room(wanted.all_octets, wanted.all_entries, wanted.all_unpacked)
        # What a message within the message is called says nothing.
        parts = (part for part in tree.root.walk() if not part.children or part.type.startswith("multipart/"))
        self._looks = [_Look(message, part, wanted, room) for part in parts]

    @property
    def is_deep(self) -> bool:
        """Whether `problems` has more to do than to compare names: there are archives, or the like."""
        return any(look.read_as for look in self._looks)

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong, part by part, at most one problem of each sort for a part. Ask once."""
        if self._unseen:
            yield Problem("unreadable", None, "", "its structure is too large or too odd to be read")
        for look in self._looks:
            seen: set[Sort] = set()
            for problem in look.problems():
                if problem.sort not in seen:
                    seen.add(problem.sort)
                    yield problem

    def documents(self) -> list[Document]:
        """Return the office files that `problems` came across."""
        return [document for look in self._looks if (document := look.document) is not None]


class _Look:
    """One leaf, looked at once."""

    def __init__(self, message: Message, part: Part, wanted: Wanted, room: _Room) -> None:
        self._message, self._part, self._wanted, self._room = message, part, wanted, room
        # A multipart has names only if no blank line ends its header, and those of its first part got into it.
        head = b"" if part.children else decoded_octets(message, part, HEAD)
        self._kind = kind_of(head)
        self._names = part.described.names
        if part.type == "text/plain":
            self._names += tuple(_uuencoded(message, part, head))
        self._shown = printable(self._names[0], _SHOWN) if self._names else part.type[:_SHOWN]
        self._extensions = frozenset(e for name in self._names for e in extensions_of(name))
        self.read_as = "" if part.children else self._looked_into()
        self.document: Document | None = None

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong, the worst first."""
        wanted = self._wanted
        if self._kind in wanted.kinds:
            yield self._problem("dangerous", f"its content is of the kind {self._kind}")
        if bad := self._extensions & wanted.extensions:
            yield self._problem("dangerous", f"its name ends in {_listed(bad)}")
        if any(map(has_direction_trick, self._names)):
            yield self._problem("disguised", "its name turns the direction of writing")
        if is_disguised(self._extensions, self._kind):
            yield self._problem(
                "disguised", f"its content, of the kind {self._kind}, is not what its name says"
            )
        if self._extensions & MACRO_FILES:
            yield self._problem("macros", "it is an office file with macros")
        if self._part.type in _ELSEWHERE:
            yield self._problem("unreadable", "its content comes in other messages, or from elsewhere")
        if self._kind in UNLISTED:
            yield self._problem("unreadable", f"what is in a {self._kind} file isn't looked at")
        if self.read_as:
            yield from self._contents()

    def _looked_into(self) -> str:
        """Return as what the content is read: as what it is, or what its name promises if it is nothing known."""
        if self._kind in _LISTERS or self._kind in COMPRESSED or self._kind == "ole":
            return self._kind
        promised = sorted(self._extensions & _BY_NAME.keys())
        return _BY_NAME[promised[0]] if promised else ""

    def _contents(self) -> Iterator[Problem]:
        kind = self.read_as
        data = self._all()
        if data is None:
            yield self._problem("unreadable", "it is too large to be looked at")
            return
        if kind == "ole":
            self.document = Document(self._part, self._shown, _VBA in data)
            if self.document.has_macros:
                yield self._problem("macros", "it holds macros")
            return
        most = min(self._wanted.entries, self._room.entries)
        if kind in COMPRESSED:
            listing = list_compressed(data, kind, most, self._room.unpacked)
        else:
            listing = _LISTERS[kind](data, most)
        self._room.entries -= min(len(listing.names), most)
        self._room.unpacked -= min(listing.read, self._room.unpacked)
        yield from self._listed(listing)

    def _listed(self, listing: Listing) -> Iterator[Problem]:
        inside = frozenset(e for name in listing.names for e in extensions_of(name))
        if bad := inside & self._wanted.extensions:
            yield self._problem("dangerous", f"it holds a file whose name ends in {_listed(bad)}")
        if any(_MACRO_ENTRY.search(name) for name in listing.names):
            self.document = Document(self._part, self._shown, has_macros=True)
        if self.document or inside & MACRO_FILES:
            yield self._problem("macros", "it holds macros")
        if listing.encrypted:
            yield self._problem("encrypted", "it is encrypted")
        if listing.ratio > self._wanted.ratio:
            yield self._problem("bomb", f"it unpacks to {listing.ratio:.0f} times its size")
        if inside & ARCHIVES:
            yield self._problem("nested", "it holds another archive")
        if not listing.full:
            detail = "it holds more than is looked at" if listing.names else "it can't be listed"
            yield self._problem("unreadable", detail)

    def _all(self) -> bytes | None:
        """Return the whole content, unless that is too much for this part or this message."""
        if self._part.size > min(self._wanted.octets, self._room.octets):
            return None
        self._room.octets -= self._part.size
        return decoded_octets(self._message, self._part)

    def _problem(self, sort: Sort, detail: str) -> Problem:
        return Problem(sort, self._part, self._shown, detail)


def _uuencoded(message: Message, part: Part, head: bytes) -> Iterator[str]:
    """Yield the names of files that stand in the text itself, as some readers still show them."""
    found = (
        _UUENCODED.finditer(head)
        if part.described.encoding == "base64"
        else _UUENCODED.finditer(message.body, max(part.body - 1, 0), part.stop)
    )
    for match in islice(found, _MOST_UUENCODED):
        yield match[1].decode("utf-8", "replace")


def _listed(extensions: Iterable[str]) -> str:
    return ", ".join(f".{printable(extension, 20)}" for extension in sorted(extensions))
