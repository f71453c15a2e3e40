"""The archive in which a queue moves to another machine: a tar file with envelopes as JSON and contents as they are.

The first member counts what is to come, the last what came, so that one that was cut off is not taken for whole. Must
not know a database.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from typing import IO, Any, Self

import orjson

from relayproxy.model.queued import Standing
from relayproxy.spool.codec import (
    read_client,
    read_direction,
    read_envelope,
    read_findings,
    read_meta,
    read_origin,
)

FORMAT = "relayproxy-queue"
VERSION = 1
_FIRST, _LAST = "queue.json", "end.json"
_LONGEST_JSON = 256 * 2**20
_LONGEST_CONTENT = 2**31
_KINDS: dict[object, type[Any] | tuple[type[Any], ...]] = {int: int, float: (int, float), str: str}


class ArchiveError(Exception):
    """It is no archive of a queue, of another version, or damaged; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class PartRow:
    """A part as it is stored, without what only holds on its machine: owner and epoch."""

    part: int
    route: str
    destination: str
    standing: str
    reason: str
    due: float
    attempts: int
    warned: int
    tenant: str
    priority: int


@dataclass(frozen=True, slots=True)
class RecipientRow:
    """A recipient as it is stored."""

    number: int
    part: int
    address: str
    notify: str
    orcpt: str
    reply: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A message as it is stored: `digest` is the SHA-256 of its octets in hexadecimal digits."""

    seq: int
    id: str
    origin: str
    sender: str
    received: float
    size: int
    meta: str
    digest: str
    parts: tuple[PartRow, ...]
    recipients: tuple[RecipientRow, ...]


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is: messages, recipients, octets."""

    messages: int
    recipients: int
    octets: int


class ArchiveWriter:
    """Writes an archive to a file that need not be seekable. `end` makes it whole."""

    def __init__(self, file: IO[bytes], counts: Counts) -> None:
        self._tar = tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115  (closed by `end`)
        self._count = 0
        self._add(_FIRST, orjson.dumps({"format": FORMAT, "version": VERSION, **asdict(counts)}))

    def add(self, kept: Kept, content: bytes) -> None:
        """Add a message. Raises OSError."""
        self._add(f"{kept.seq:x}.json", orjson.dumps(asdict(kept)))
        self._add(f"{kept.seq:x}.eml", content)
        self._count += 1

    def end(self) -> None:
        """Write the last member. Raises OSError."""
        self._add(_LAST, orjson.dumps({"messages": self._count}))
        self._tar.close()

    def _add(self, name: str, octets: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(octets), 0o600
        self._tar.addfile(member, BytesIO(octets))


class ArchiveReader:
    """Reads an archive from a file that need not be seekable; nothing of it is ever unpacked to a disk."""

    def __init__(self, file: IO[bytes]) -> None:
        try:
            self._tar = tarfile.open(fileobj=file, mode="r|")  # noqa: SIM115  (closed by `close`)
        except (tarfile.TarError, OSError) as error:
            raise ArchiveError(f"it is no archive: {error}") from error
        name, octets = self._next()
        first = _object(octets) if name == _FIRST else {}
        if first.get("format") != FORMAT:
            raise ArchiveError("it is no archive of a queue")
        if first.get("version") != VERSION:
            raise ArchiveError(f"it is an archive of version {first.get('version')}, wanted {VERSION}")
        numbers = [first.get(field.name) for field in fields(Counts)]
        if not all(isinstance(number, int) for number in numbers):
            raise ArchiveError("its counts are damaged")
        self.counts = Counts(*numbers)  # type: ignore[arg-type]  # looked at above

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def __iter__(self) -> Iterator[tuple[Kept, bytes]]:
        """Yield all messages with their octets. Raises ArchiveError for one that is damaged, or when the end is missing."""
        count = 0
        while True:
            name, octets = self._next()
            if name == _LAST:
                if _object(octets).get("messages") != count:
                    raise ArchiveError("messages are missing from it")
                return
            kept = _kept(name, octets)
            name, content = self._next()
            if name != f"{kept.seq:x}.eml":
                raise ArchiveError(f"the content of {kept.id} is missing")
            yield kept, content
            count += 1

    def _next(self) -> tuple[str, bytes]:
        try:
            member = self._tar.next()
            if member is None:
                raise ArchiveError("it was cut off")
            most = _LONGEST_JSON if member.name.endswith(".json") else _LONGEST_CONTENT
            file = self._tar.extractfile(member) if member.isfile() and member.size <= most else None
            if file is None:
                raise ArchiveError(f"{member.name!r} does not belong there")
            octets = file.read()
            # A streamed archive keeps all of its members, which would be a million.
            self._tar.members.clear()  # type: ignore[attr-defined]  # the stubs leave it out
        except (tarfile.TarError, OSError, ValueError) as error:
            raise ArchiveError(str(error)) from error
        if len(octets) != member.size:
            raise ArchiveError("it was cut off")
        return member.name, octets


def _object(octets: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(octets)
    except ValueError as error:
        raise ArchiveError(str(error)) from error
    if not isinstance(found, dict):
        raise ArchiveError("an object is expected")
    return found


def _kept(name: str, octets: bytes) -> Kept:
    """Return a message, of which everything is such that it can be delivered. Raises ArchiveError."""
    found = _object(octets)
    try:
        parts = tuple(_row(PartRow, one) for one in found.pop("parts"))
        recipients = tuple(_row(RecipientRow, one) for one in found.pop("recipients"))
        kept: Kept = _row(Kept, {**found, "parts": parts, "recipients": recipients})
        meta = read_meta(kept.meta)
        read_client(meta)
        read_envelope(meta, kept.sender, ())
        read_direction(meta)
        read_findings(meta)
        read_origin(kept.origin)
        bytes.fromhex(kept.digest)
        for part in parts:
            Standing(part.standing)
        if not parts or {one.part for one in recipients} != {part.part for part in parts}:
            raise ArchiveError(f"{name}: recipients and parts don't belong together")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArchiveError(f"{name}: {type(error).__name__}: {error}") from error
    return kept


def _row(kind: type[Any], given: dict[str, Any]) -> Any:
    """Return a value whose fields have the types that they should have. Raises TypeError."""
    value = kind(**given)
    for field in fields(kind):
        found = getattr(value, field.name)
        wanted = _KINDS.get(field.type, tuple)
        if not isinstance(found, wanted) or isinstance(found, bool):
            raise TypeError(f"{field.name} is {found!r}")
    return value
