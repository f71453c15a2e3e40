"""A queue out of a store into an archive, and from an archive into the store: SQLite here, PostgreSQL derived from it.

Works beside running workers: what they have in delivery stays with them. What is to be moved is leased first, so that
it isn't delivered as well. Must not know routes, nor how anything is printed.
"""

import hashlib
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from relayproxy.model.message import Message
from relayproxy.spool.archive import ArchiveReader, ArchiveWriter, Counts, Kept, PartRow, RecipientRow
from relayproxy.spool.content import ContentFiles
from relayproxy.spool.database import open_database, refusals, transaction
from relayproxy.spool.protocol import SpoolFullError
from relayproxy.spool.sqlite import INLINE
from relayproxy.spool.tables import drop_messages

_SOME = 100
_OCTETS = 8 * 2**20  # of contents in one transaction
_MOVING = 3600.0  # seconds for which a part that is being moved is kept from the workers
_REMEMBERED = 90 * 86_400.0
_IDLE = "standing IN ('queued', 'held') AND (owner = '' OR due <= ?)"


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export came to, in messages; `left` counts parts that were in delivery or can't be read."""

    messages: int
    left: int
    moved: int


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import came to, in messages: new ones, those that had come before, and those that are damaged."""

    added: int
    known: int
    damaged: int


class Transfer:
    """A way to the store for moving it; use as a context manager. Raises SpoolError for what can't be done."""

    _begin = "BEGIN IMMEDIATE"
    _begin_reading = "BEGIN"
    _inline = INLINE
    _db: Any

    def __init__(self, path: Path, *, min_free: int = 0) -> None:
        self._path = path
        self._min_free = min_free
        self._files = ContentFiles(path.parent / "content")
        with refusals():
            self._db = open_database(path)

    def __enter__(self) -> Self:
        return self

    @property
    def _owner(self) -> str:
        return f"export.{platform.node()}.{os.getpid()}"

    def __exit__(self, *_: object) -> None:
        self._db.close()

    # -- out -------------------------------------------------------------------------------------------------

    def counts(self) -> Counts:
        """Return how much an export would take now."""
        with refusals():
            row = self._db.execute(
                "SELECT count(*), coalesce(sum(size), 0), (SELECT count(*) FROM recipient r JOIN part USING (message, part)"
                f" WHERE {_IDLE}) FROM message WHERE seq IN (SELECT message FROM part WHERE {_IDLE})",
                (time.time(), time.time()),
            ).fetchone()
        return Counts(row[0], row[2], int(row[1]))

    def take_out(self, archive: ArchiveWriter, durable: Callable[[], None], *, move: bool) -> Exported:
        """Write all that is idle to an archive; with `move` delete it when `durable` has returned."""
        taken: list[tuple[int, int, int]] = []
        messages = 0
        try:
            for key in self._keys(move=move):
                with transaction(self._db, self._begin_reading):
                    # A worker may be at it: all is to be of one moment.
                    found = self._idle(key)
                    if not found:
                        continue
                    kept = self._kept(key, {part for part, _ in found})
                    content = self._content(kept)
                if content is None:
                    continue
                archive.add(kept, content)
                messages += 1
                taken += [(key, part, epoch) for part, epoch in found]
            archive.end()
            durable()
        except BaseException:
            self._give_back()
            raise
        left = self._count() - len(taken)
        moved = self._delete(taken) if move else 0
        self._give_back()
        return Exported(messages, left, moved)

    def _keys(self, *, move: bool) -> Iterator[int]:
        """Yield the keys of all messages, some at a time, as there may be a million; those to be moved are ours then."""
        last = -1
        while True:
            with refusals():
                rows = self._db.execute(
                    "SELECT seq FROM message WHERE seq > ? ORDER BY seq LIMIT ?", (last, _SOME)
                ).fetchall()
                if not rows:
                    return
                if move:
                    now = time.time()
                    self._db.execute(
                        "UPDATE part SET owner = ?, due = ?, epoch = epoch + 1"
                        f" WHERE message BETWEEN ? AND ? AND standing = 'queued' AND {_IDLE}",
                        (self._owner, now + _MOVING, rows[0][0], rows[-1][0], now),
                    )
            for (last,) in rows:
                yield last

    def _idle(self, key: int) -> list[tuple[int, int]]:
        """Return those parts of a message that are not in delivery, and their epochs."""
        with refusals():
            rows: list[tuple[int, int]] = self._db.execute(
                f"SELECT part, epoch FROM part WHERE message = ? AND (owner = ? OR {_IDLE})",
                (key, self._owner, time.time()),
            ).fetchall()
        return rows

    def _kept(self, key: int, parts: set[int]) -> Kept:
        with refusals():
            id_, origin, sender, received, size, meta, digest = self._db.execute(
                "SELECT id, origin, sender, received, size, meta, digest FROM message WHERE seq = ?", (key,)
            ).fetchone()
            rows = self._db.execute(
                "SELECT part, route, destination, standing, reason, due, attempts, warned, tenant, priority, owner FROM part"
                " WHERE message = ? ORDER BY part",
                (key,),
            ).fetchall()
            recipients = self._db.execute(
                "SELECT number, part, address, notify, orcpt, reply FROM recipient WHERE message = ? ORDER BY number",
                (key,),
            ).fetchall()
        found = [PartRow(*row[:-1]) for row in rows if row[0] in parts]
        # What we have leased is due at once on the other side.
        ours = {row[0] for row in rows if row[-1] == self._owner}
        return Kept(
            key,
            id_,
            origin,
            sender,
            received,
            size,
            meta,
            bytes(digest).hex(),
            tuple(replace(part, due=time.time()) if part.part in ours else part for part in found),
            tuple(RecipientRow(*row) for row in recipients if row[1] in parts),
        )

    def _content(self, kept: Kept) -> bytes | None:
        """Return the octets of a message, or None if they are not those that were written."""
        with refusals():
            row = self._db.execute("SELECT content FROM message WHERE seq = ?", (kept.seq,)).fetchone()
        try:
            octets = bytes(row[0]) if row[0] is not None else self._outside(kept.seq)
        except OSError:
            return None
        return octets if hashlib.sha256(octets).hexdigest() == kept.digest else None

    def _count(self) -> int:
        with refusals():
            return int(self._db.execute("SELECT count(*) FROM part").fetchone()[0])

    def _delete(self, taken: list[tuple[int, int, int]]) -> int:
        """Delete what was written to the archive and hasn't changed since; return how many parts."""
        deleted = 0
        for start in range(0, len(taken), _SOME):
            some = taken[start : start + _SOME]
            with transaction(self._db, self._begin):
                for key, part, epoch in some:
                    gone = self._db.execute(
                        "DELETE FROM part WHERE message = ? AND part = ? AND epoch = ?", (key, part, epoch)
                    ).rowcount
                    if gone:
                        self._db.execute("DELETE FROM recipient WHERE message = ? AND part = ?", (key, part))
                        # It may come back some day.
                        self._db.execute("DELETE FROM imported WHERE seq = ?", (key,))
                    deleted += gone
                ended = self._drop_empty(sorted({key for key, _, _ in some}))
            self._remove(ended)
        return deleted

    def _give_back(self) -> None:
        with refusals():
            self._db.execute(
                "UPDATE part SET owner = '', due = ?, epoch = epoch + 1 WHERE owner = ?",
                (time.time(), self._owner),
            )

    # -- in --------------------------------------------------------------------------------------------------

    def put_in(self, archive: ArchiveReader, onto: Callable[[str], str]) -> Imported:
        """Store all that is in an archive and hasn't been stored from one before; `onto` maps names of routes.

        Raises ArchiveError when the archive is damaged or incomplete; what came before that is stored, and a second
        import of the same, whole, adds the rest.
        """
        added = known = damaged = 0
        group: list[tuple[Kept, bytes]] = []
        with refusals():
            self._db.execute("DELETE FROM imported WHERE at < ?", (time.time() - _REMEMBERED,))
        try:
            for kept, content in archive:
                if len(content) != kept.size or hashlib.sha256(content).hexdigest() != kept.digest:
                    damaged += 1
                    continue
                if self._is_known(kept) or any(kept.seq == other.seq for other, _ in group):
                    known += 1
                    continue
                group.append((kept, content))
                if len(group) >= _SOME or sum(len(octets) for _, octets in group) >= _OCTETS:
                    added += self._store(group, onto)
                    group = []
        finally:
            added += self._store(group, onto)
        return Imported(added, known, damaged)

    def _is_known(self, kept: Kept) -> bool:
        with refusals():
            return (
                self._db.execute(
                    "SELECT 1 FROM imported WHERE seq = ? UNION ALL SELECT 1 FROM message WHERE id = ? AND digest = ?",
                    (kept.seq, kept.id, bytes.fromhex(kept.digest)),
                ).fetchone()
                is not None
            )

    def _store(self, group: list[tuple[Kept, bytes]], onto: Callable[[str], str]) -> int:
        if not group:
            return 0
        self._look_for_room()
        written: list[int] = []
        try:
            with transaction(self._db, self._begin):
                for kept, content in group:
                    key = self._free_key(kept.seq)
                    inline = len(content) <= self._inline
                    if not inline:
                        self._put_outside(key, content)
                        written.append(key)
                    self._insert(key, kept, content if inline else None, onto)
        except BaseException:
            self._remove(written)
            raise
        return len(group)

    # -- what another store does in its own way --------------------------------------------------------------

    def _outside(self, key: int) -> bytes:
        """Return the content of a message that is too large for its row. Raises OSError."""
        return self._files.place(key).read_bytes()

    def _put_outside(self, key: int, content: bytes) -> None:
        self._files.write(key, b"", Message.from_bytes(content))

    def _look_for_room(self) -> None:
        free = os.statvfs(self._path.parent)
        if free.f_bavail * free.f_frsize < self._min_free:
            raise SpoolFullError("the file system is too full")

    def _drop_empty(self, keys: list[int]) -> set[int]:
        return drop_messages(self._db, keys)

    def _remove(self, keys: Iterable[int]) -> None:
        for key in keys:
            self._files.remove(key)

    # -- rows ------------------------------------------------------------------------------------------------

    def _free_key(self, key: int) -> int:
        while self._db.execute("SELECT 1 FROM message WHERE seq = ?", (key,)).fetchone():
            key += 1
        return key

    def _insert(self, key: int, kept: Kept, content: bytes | None, onto: Callable[[str], str]) -> None:
        digest = bytes.fromhex(kept.digest)
        self._db.execute(
            "INSERT INTO message (seq, id, origin, sender, received, size, meta, digest, content)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (key, kept.id, kept.origin, kept.sender, kept.received, kept.size, kept.meta, digest, content),
        )
        self._db.executemany(
            "INSERT INTO part (message, part, route, destination, standing, reason, due, attempts, warned, tenant,"
            " priority, owner, epoch) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '', 1)",
            [
                (
                    key,
                    one.part,
                    onto(one.route),
                    one.destination,
                    one.standing,
                    one.reason,
                    one.due,
                    one.attempts,
                    one.warned,
                    one.tenant,
                    one.priority,
                )
                for one in kept.parts
            ],
        )
        self._db.executemany(
            "INSERT INTO recipient (message, number, part, address, notify, orcpt, reply) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (key, one.number, one.part, one.address, one.notify, one.orcpt, one.reply)
                for one in kept.recipients
            ],
        )
        self._db.execute("INSERT INTO imported VALUES (?, ?)", (kept.seq, time.time()))
