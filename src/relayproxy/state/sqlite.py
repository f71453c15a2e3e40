"""Shared state in a SQLite file that all workers of a machine open.

A thread of each process does all its work: whatever has piled up goes into one transaction, so that the cost of a
commit is shared. The processes take turns by a lock on a file beside the database; the kernel wakes the next one,
where SQLite's own lock would be polled for. Must not be put on a network file system.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

from relayproxy.api import Unavailable
from relayproxy.model.shared import Operation
from relayproxy.sqlite import write_ahead
from relayproxy.state.listing import Store
from relayproxy.state.rows import Row, only_reads, perform

log = logging.getLogger(__name__)

_MOST_PENDING = 10_000
_GROUP = 256
_BUSY = 5.0  # seconds; only a stranger (a backup, the sqlite3 program) can hold SQLite's own lock
_PATIENCE = 5.0  # with another process that holds the lock and does not go on
_SWEEP_EVERY = 30.0
_SWEEP = 500
_LARGEST = 1 << 30
_PAGE = 1000
_LAST = "\x7f"  # behind every character that a key may have
_SCHEMA = """
CREATE TABLE IF NOT EXISTS state (
  key TEXT PRIMARY KEY, number REAL NOT NULL, stamp REAL NOT NULL, text TEXT NOT NULL, ends REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS state_ends ON state (ends);
"""
_BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_Job: TypeAlias = "tuple[Sequence[Operation], asyncio.Future[list[Any]]]"


class SqliteState(Store):
    """The file at `path`, made where it is missing; `now` tells the time in seconds since the epoch.

    Above `largest` octets what ends soonest is dropped. A file that is no database, or is damaged, is put aside as
    `NAME.broken` and begun anew.
    """

    def __init__(self, path: Path, now: Callable[[], float], *, largest: int = _LARGEST) -> None:
        self._path = path
        self._now = now
        self._largest = largest
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._base: sqlite3.Connection | None = None
        self._lock = -1
        self._suspect = 0
        self._sweep_at = 0.0

    # -- in the event loop -----------------------------------------------------------------------------------

    async def do(self, *operations: Operation) -> list[Any]:
        """Carry out operations in one transaction, together with those of others that wait."""
        if self._closed:
            raise Unavailable("the state is closed")
        if self._jobs.qsize() >= _MOST_PENDING:
            raise Unavailable("too many operations wait for the disk")
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="relayproxy-state", daemon=True)
            self._thread.start()
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._jobs.put((operations, future))
        return await future

    async def close(self) -> None:
        """Finish what was begun and close the file."""
        self._closed = True
        if self._thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join, _PATIENCE)

    async def entries(self, prefix: str = "") -> AsyncIterator[tuple[str, Row]]:
        """Yield what is kept under keys that begin with `prefix`; a file that isn't there yet keeps nothing."""
        after = ""
        while self._path.exists():
            found = await asyncio.to_thread(self._page, prefix, after)
            for key, number, stamp, text, ends in found:
                yield key, Row(number, stamp, text, ends)
            if len(found) < _PAGE:
                return
            after = found[-1][0]

    def _page(self, prefix: str, after: str) -> list[tuple[str, float, float, str, float]]:
        """Read the next keys on a connection of its own, which neither waits for the writer nor stops it."""
        try:
            with contextlib.closing(
                sqlite3.connect(f"file:{quote(str(self._path))}?mode=ro", uri=True, timeout=_BUSY)
            ) as base:
                return base.execute(
                    "SELECT key, number, stamp, text, ends FROM state"
                    " WHERE key >= ? AND key < ? AND key > ? AND ends > ? ORDER BY key LIMIT ?",
                    (prefix, prefix + _LAST, after, self._now(), _PAGE),
                ).fetchall()
        except sqlite3.Error as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error

    # -- in the thread ---------------------------------------------------------------------------------------

    def _work(self) -> None:
        going = True
        while going:
            jobs: list[_Job] = []
            job = self._jobs.get()
            while job is not None:
                jobs.append(job)
                if len(jobs) == _GROUP or self._jobs.empty():
                    break
                job = self._jobs.get()
            going = job is not None
            jobs = [job for job in jobs if not job[1].cancelled()]
            if jobs:
                self._group(jobs)
        self._forget_file()

    def _group(self, jobs: Sequence[_Job]) -> None:
        """Do all jobs in one transaction; all of them fail together."""
        answers: list[list[Any]] = []
        error: Exception | None = None
        try:
            batches = [operations for operations, _ in jobs]
            if all(map(only_reads, (operation for batch in batches for operation in batch))):
                # Readers neither wait for the writer nor stop it.
                answers = self._reading(batches) if self._base else self._writing(batches)
            else:
                answers = self._writing(batches)
        except (sqlite3.Error, OSError) as fault:
            error = fault
            if getattr(fault, "sqlite_errorcode", 0) in _BROKEN:
                self._suspect = _inode(self._path)
            self._forget_file()
        except Exception as fault:  # noqa: BLE001  (a thread has nobody above it; those who wait hear of it)
            error = fault
        loop = jobs[0][1].get_loop()
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            loop.call_soon_threadsafe(_tell, [future for _, future in jobs], answers, error)

    def _reading(self, batches: Sequence[Sequence[Operation]]) -> list[list[Any]]:
        assert self._base is not None
        self._base.execute("BEGIN")
        try:
            answers, _ = self._performed(self._base, batches)
        finally:
            self._base.rollback()
        return answers

    def _writing(self, batches: Sequence[Sequence[Operation]]) -> list[list[Any]]:
        with self._alone():
            base = self._base or self._open()
            base.execute("BEGIN IMMEDIATE")
            try:
                answers, rows = self._performed(base, batches)
                rows.save()
                now = self._now()
                if now >= self._sweep_at or now < self._sweep_at - 2 * _SWEEP_EVERY:
                    self._sweep(base, now)
            except BaseException:
                base.rollback()
                raise
            base.execute("COMMIT")
        return answers

    def _performed(
        self, base: sqlite3.Connection, batches: Sequence[Sequence[Operation]]
    ) -> "tuple[list[list[Any]], _Rows]":
        rows = _Rows(base)
        now = self._now()
        return [
            [perform(operation, rows.read, rows.write, now) for operation in operations]
            for operations in batches
        ], rows

    def _sweep(self, base: sqlite3.Connection, now: float) -> None:
        """Remove a little of what is over; come back at once if there was more."""
        gone = base.execute(
            "DELETE FROM state WHERE key IN (SELECT key FROM state WHERE ends <= ? LIMIT ?)", (now, _SWEEP)
        ).rowcount
        if gone < _SWEEP:
            self._sweep_at = now + _SWEEP_EVERY
            (pages,) = base.execute("PRAGMA page_count").fetchone()
            (free,) = base.execute("PRAGMA freelist_count").fetchone()
            (size,) = base.execute("PRAGMA page_size").fetchone()
            if (pages - free) * size > self._largest:
                base.execute(
                    "DELETE FROM state WHERE key IN (SELECT key FROM state ORDER BY ends LIMIT ?)", (_SWEEP,)
                )
                self._sweep_at = now

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait for this process's turn."""
        if self._lock < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._lock = os.open(self._path.with_name(f"{self._path.name}-lock"), flags, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _open(self) -> sqlite3.Connection:
        """Open the file, or begin it anew where it is damaged."""
        if self._suspect and _inode(self._path) == self._suspect:
            self._put_aside()
        self._suspect = 0
        try:
            self._base = self._opened()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode not in _BROKEN:
                raise
            self._put_aside()
            self._base = self._opened()
        return self._base

    def _opened(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        base = sqlite3.connect(self._path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        try:
            write_ahead(base, _BUSY)
            base.execute("PRAGMA synchronous=NORMAL")
            base.executescript(_SCHEMA)
        except BaseException:
            base.close()
            raise
        return base

    def _put_aside(self) -> None:
        broken = self._path.with_name(f"{self._path.name}.broken")
        log.error("%s is damaged: counters start anew, the file is kept as %s", self._path, broken)
        self._path.replace(broken)
        for suffix in ("-wal", "-shm"):
            self._path.with_name(f"{self._path.name}{suffix}").unlink(missing_ok=True)

    def _forget_file(self) -> None:
        if self._base is not None:
            with contextlib.suppress(sqlite3.Error):
                self._base.close()
            self._base = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class _Rows:
    """The rows of one transaction: each is read once and written once."""

    def __init__(self, base: sqlite3.Connection) -> None:
        self._base = base
        self._rows: dict[str, Row | None] = {}
        self._changed: set[str] = set()

    def read(self, key: str) -> Row | None:
        if key not in self._rows:
            found = self._base.execute(
                "SELECT number, stamp, text, ends FROM state WHERE key = ?", (key,)
            ).fetchone()
            self._rows[key] = Row(*found) if found else None
        return self._rows[key]

    def write(self, key: str, row: Row | None) -> None:
        self._rows[key] = row
        self._changed.add(key)

    def save(self) -> None:
        kept, gone = [], []
        for key in self._changed:
            row = self._rows[key]
            if row is None:
                gone.append((key,))
            else:
                kept.append((key, row.number, row.stamp, row.text, row.ends))
        if kept:
            self._base.executemany("INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?, ?)", kept)
        if gone:
            self._base.executemany("DELETE FROM state WHERE key = ?", gone)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _tell(
    futures: Sequence["asyncio.Future[list[Any]]"], answers: Sequence[list[Any]], error: Exception | None
) -> None:
    """Give everybody who still waits their answer."""
    for number, future in enumerate(futures):
        if future.done():
            continue
        if error is None:
            future.set_result(answers[number])
        else:
            reason = Unavailable(f"{type(error).__name__}: {error}")
            reason.__cause__ = error
            future.set_exception(reason)
