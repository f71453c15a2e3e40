"""The store in one SQLite file: WAL, every commit synced, one writing thread for each worker, group commit.

A message is one row with its octets in it, or, above `inline` octets, with them in a file that was synced before the
commit. Implements protocol.Spool. Must not know routes, replies or what a delivery is.
"""

import asyncio
import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relayproxy.model.message import Message
from relayproxy.model.queued import Deposit, Expired, Lease, Progress, Queued, Settlement
from relayproxy.spool import tables
from relayproxy.spool.content import ContentFiles, digest_of
from relayproxy.spool.database import Keys, key_at, open_database, prepare
from relayproxy.spool.protocol import BrokenEntryError, SpoolError, SpoolFullError
from relayproxy.spool.rows import MESSAGE, RECIPIENT, Stored, queued_of, size_of
from relayproxy.spool.writer import Writer

INLINE = 65_536
"""Octets up to which a message lives in the database: above, a synced file costs less (docs/queue.md has figures)."""

_LOOK = 1.0  # seconds between two looks at the free space
_SOME = 500
_MOST_CURSORS = 10_000


@dataclass(frozen=True, slots=True)
class Floors:
    """What must stay free on the file system: octets and inodes."""

    octets: int = 200_000_000
    inodes: int = 1000


class SqliteSpool:
    """One worker's way to the store. Make it after the fork; `start` opens it."""

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], float] = time.time,
        floors: Floors | None = None,
        inline: int = INLINE,
        alarm: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._path = path
        self._now = now
        self._floors = floors or Floors()
        self._inline = inline
        self._keys = Keys(now)
        self._files = ContentFiles(path.parent / "content")
        self._writer = Writer(
            lambda: open_database(path), path.with_name(f"{path.name}-writer"), failed=alarm
        )
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="spool-reader")
        self._syncers = ThreadPoolExecutor(4, thread_name_prefix="spool-files")
        self._database: sqlite3.Connection | None = None
        self._looked = -_LOOK
        self._turns: dict[str, tuple[int, str]] = {}
        self._cursors: dict[str, dict[str, str]] = {}
        self._has_room = True

    def start(self) -> None:
        """Open the database. Raises OSError, sqlite3.Error and SpoolError."""
        prepare(self._path)
        self._writer.start()
        self._database = open_database(self._path, readonly=True)

    @property
    def failed(self) -> str:
        """Why nothing is taken any more, or ""."""
        return self._writer.latched

    def room(self) -> bool:
        """Whether the file system has more free than the floors; looked up once a second."""
        now = time.monotonic()
        if now - self._looked >= _LOOK:
            self._looked = now
            try:
                free = os.statvfs(self._path.parent)
            except OSError:
                self._has_room = False
            else:
                # Some file systems count no inodes; they say 0 of 0.
                self._has_room = free.f_bavail * free.f_frsize >= self._floors.octets and (
                    not free.f_files or free.f_favail >= self._floors.inodes
                )
        return self._has_room

    async def store(self, deposit: Deposit) -> tuple[Lease, ...]:
        """See protocol.Spool."""
        if not self.room():
            raise SpoolFullError("the file system is too full")
        item = await self._written(deposit)
        try:
            leases: tuple[Lease, ...] = await self._writer.do(tables.store, item)
        except SpoolError:
            if item[3] is None:
                self._files.remove(item[0])
            raise
        return leases

    async def _written(self, deposit: Deposit) -> Stored:
        """Give a deposit its key; a large one is on disk when this returns. Raises SpoolError."""
        key = self._keys.next()
        lead, message = deposit.lead, deposit.message
        if size_of(deposit) <= self._inline:
            content = lead + bytes(message)
            return key, deposit, digest_of(content, _NOTHING), content
        loop = asyncio.get_running_loop()
        try:
            digest = await loop.run_in_executor(self._syncers, self._files.write, key, lead, message)
        except OSError as error:
            if error.errno == errno.EIO:
                self._writer.latch(str(error))
            raise SpoolFullError(str(error)) if error.errno in _FULL else SpoolError(str(error)) from error
        return key, deposit, digest, None

    async def due(self, route: str) -> float | None:
        """See protocol.Spool."""
        row = await self._read(
            lambda db: db.execute(
                "SELECT min(due) FROM part INDEXED BY part_due WHERE standing = 'queued' AND route = ?",
                (route,),
            ).fetchone()
        )
        return None if row is None or row[0] is None else float(row[0])

    async def count(self, route: str) -> int:
        """See protocol.Spool."""
        row = await self._read(
            lambda db: db.execute(
                "SELECT count(*) FROM part INDEXED BY part_due WHERE standing = 'queued' AND route = ?",
                (route,),
            ).fetchone()
        )
        return int(row[0])

    def _cursors_of(self, route: str) -> dict[str, str]:
        """Return which campaign of each tenant was served last; begins anew before it grows too large."""
        cursors = self._cursors.get(route)
        if cursors is None or len(cursors) > _MOST_CURSORS:
            cursors = self._cursors[route] = {}
        return cursors

    async def claim(self, route: str, owner: str, until: float, limit: int) -> list[Lease]:
        """See protocol.Spool."""
        turn, last = self._turns.get(route, (0, ""))
        leases: list[Lease]
        while True:
            asked = (route, owner, self._now(), until, limit, turn, last, self._cursors_of(route))
            try:
                leases, last = await self._writer.do(tables.claim, asked)
            except SpoolFullError:
                if limit <= 1:
                    raise
                # On a full disk the queue has to empty: fewer at a time touch fewer pages.
                limit //= 4
            else:
                self._turns[route] = (turn + 1, last)
                return leases

    async def claim_aged(
        self, route: str, owner: str, until: float, limit: int, received_before: float, *, unwarned: bool
    ) -> list[Lease]:
        """See protocol.Spool."""
        below = key_at(received_before)
        looked = "SELECT 1 FROM part WHERE message < ? AND +route = ? AND +standing = 'queued' AND warned <= ? LIMIT 1"
        found = await self._read(
            lambda db: db.execute(looked, (below, route, 0 if unwarned else 1)).fetchone()
        )
        if found is None:
            return []
        asked = (route, owner, self._now(), until, limit, below, unwarned)
        leases: list[Lease] = await self._writer.do(tables.claim_aged, asked)
        return leases

    async def renew(self, leases: Sequence[Lease], until: float) -> list[Lease]:
        """See protocol.Spool."""
        lost: list[Lease] = await self._writer.do(tables.renew, (leases, until))
        return lost

    async def release(self, leases: Sequence[Lease], due: float) -> None:
        """See protocol.Spool."""
        await self._writer.do(tables.release, (leases, due))

    async def note(self, lease: Lease, progress: Progress, until: float) -> None:
        """See protocol.Spool."""
        await self._writer.do(tables.note, (lease, progress, until))

    async def settle(self, lease: Lease, settlement: Settlement) -> None:
        """See protocol.Spool."""
        everything = not settlement.replies and not settlement.held and not settlement.due
        deposits = [await self._written(deposit) for deposit in settlement.deposits]
        try:
            gone = await self._writer.do(tables.settle, (lease, settlement, everything, deposits))
        except SpoolError:
            for deposit in deposits:
                if deposit[3] is None:
                    self._files.remove(deposit[0])
            raise
        for key in gone:
            self._files.remove(key)

    async def set_aside(self, lease: Lease, reason: str) -> None:
        """See protocol.Spool."""
        await self._writer.do(tables.set_aside, (lease, reason))

    async def expire_held(self, before: float, limit: int) -> list[Expired]:
        """See protocol.Spool."""
        found = await self._read(
            lambda db: db.execute(
                "SELECT 1 FROM part WHERE standing = 'held' AND due < ? LIMIT 1", (before,)
            ).fetchone()
        )
        if found is None:
            return []
        expired: list[Expired]
        expired, gone = await self._writer.do(tables.expire_held, (before, limit))
        for key in gone:
            self._files.remove(key)
        return expired

    async def clamp(self, longest: float) -> int:
        """See protocol.Spool."""
        count: int = await self._writer.do(tables.clamp, self._now() + longest)
        return count

    async def sweep(self) -> int:
        """Delete files that a crash left behind; returns how many. Raises SpoolError."""
        return int(await self._read(lambda db: self._files.sweep(lambda keys: _known(db, keys))))

    async def routes(self) -> list[str]:
        """Return the routes of all that waits. Raises SpoolError."""
        found: list[str] = []

        def look(db: sqlite3.Connection) -> list[str]:
            # From one to the next through the index: what waits may be a million, and routes are few.
            after = ""
            while True:
                row = db.execute(
                    "SELECT route FROM part INDEXED BY part_due WHERE standing = 'queued' AND route > ?"
                    " ORDER BY route LIMIT 1",
                    (after,),
                ).fetchone()
                if row is None:
                    return found
                after = row[0]
                found.append(after)

        return list(await self._read(look))

    async def load(self, leases: Sequence[Lease]) -> list[Queued | BrokenEntryError]:
        """See protocol.Spool."""
        found: list[Queued | BrokenEntryError] = await self._read(
            lambda db: [self._load(db, lease) for lease in leases]
        )
        return found

    def _load(self, db: sqlite3.Connection, lease: Lease) -> Queued | BrokenEntryError:
        try:
            row = db.execute(
                f"SELECT {MESSAGE} FROM message WHERE seq = ?",
                (lease.message,),
            ).fetchone()
            recipients = db.execute(
                f"SELECT {RECIPIENT} FROM recipient WHERE message = ? AND part = ? ORDER BY number",
                (lease.message, lease.part),
            ).fetchall()
            if row is None or not recipients:
                return BrokenEntryError(
                    "the message is missing" if row is None else "its recipients are missing"
                )
            size, digest, content = row[4], row[6], row[7]
            return queued_of(lease, row, recipients, self._content(lease.message, size, digest, content))
        except (sqlite3.DatabaseError, OSError, ValueError, TypeError, KeyError) as error:
            return BrokenEntryError(f"{type(error).__name__}: {error}")

    def _content(self, key: int, size: int, digest: bytes, content: bytes | None) -> Message:
        if content is None:
            return self._files.read(key, size, digest)
        if len(content) != size or digest_of(content, _NOTHING) != digest:
            raise ValueError("the content is not what was written")
        return Message.from_bytes(content)

    async def _read(self, question: Callable[[sqlite3.Connection], Any]) -> Any:
        database = self._database
        if database is None:
            raise SpoolError("the store is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, question, database)
        except (sqlite3.Error, OSError) as error:
            raise SpoolError(str(error)) from error

    async def close(self) -> None:
        """See protocol.Spool."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._writer.stop)
        self._readers.shutdown()
        self._syncers.shutdown()
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()


_NOTHING = Message(b"")
_FULL = (errno.ENOSPC, errno.EDQUOT)


def _known(db: sqlite3.Connection, keys: Sequence[int]) -> set[int]:
    """Return those of `keys` that belong to a message."""
    found: set[int] = set()
    for start in range(0, len(keys), _SOME):
        some = keys[start : start + _SOME]
        marks = ",".join("?" * len(some))
        found.update(row[0] for row in db.execute(f"SELECT seq FROM message WHERE seq IN ({marks})", some))
    return found
