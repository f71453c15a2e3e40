"""The database file of the SQLite store: made, opened, versioned; and the keys of what is in it.

Must not know what is done with it.
"""

import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from relayproxy.spool import tables
from relayproxy.spool.content import make_folder, sync_folder
from relayproxy.spool.protocol import SpoolError
from relayproxy.sqlite import write_ahead

_EPOCH = 1_767_225_600  # 2026-01-01, as in core/ids
_RANDOM_BITS = 20
_BUSY = 30.0


def key_at(seconds: float) -> int:
    """Return the smallest key of a message that is stored at this time."""
    return max(0, int((seconds - _EPOCH) * 1000)) << _RANDOM_BITS


class Keys:
    """Makes keys of messages: they grow with time, and no two are the same in all workers and restarts."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._last = 0

    def next(self) -> int:
        """Return a new key."""
        self._last = max(self._last + 1, key_at(self._now()) | secrets.randbits(_RANDOM_BITS))
        return self._last


def open_database(path: Path, *, readonly: bool = False) -> sqlite3.Connection:
    """Open a spool, which must be of this version. Raises sqlite3.Error and SpoolError."""
    database = sqlite3.connect(
        path, timeout=_BUSY, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    try:
        if not readonly:
            write_ahead(database, _BUSY)
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA journal_size_limit = 67108864")
        database.execute("PRAGMA cache_size = -16000")
        database.execute("PRAGMA temp_store = MEMORY")
        _check_version(path, database)
        if readonly:
            database.execute("PRAGMA query_only = ON")
    except BaseException:
        database.close()
        raise
    return database


def _check_version(path: Path, database: sqlite3.Connection) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version != tables.VERSION:
        raise SpoolError(f"{path} is a spool of version {version}, wanted {tables.VERSION}")


def prepare(path: Path) -> None:
    """Make the folder, the database and its tables where they are missing. Raises OSError, sqlite3.Error, SpoolError."""
    make_folder(path.parent)
    database = sqlite3.connect(path, timeout=_BUSY, isolation_level=None)
    try:
        # A message of some kilobytes then takes a page or two; it counts for a new file only.
        database.execute("PRAGMA page_size = 16384")
        write_ahead(database, _BUSY)
        database.execute("PRAGMA synchronous = FULL")
        database.execute("BEGIN IMMEDIATE")
        if database.execute("PRAGMA user_version").fetchone()[0] == 0:
            for statement in tables.SCHEMA.split(";"):
                if statement.strip():
                    database.execute(statement)
            database.execute(f"PRAGMA user_version = {tables.VERSION}")
        database.execute("COMMIT")
    finally:
        database.close()
    path.chmod(0o600)
    sync_folder(path.parent)


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what a store's library raises into SpoolError."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise SpoolError(str(error)) from error


@contextmanager
def transaction(database: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """Do all of a block or nothing of it. Raises SpoolError."""
    with refusals():
        database.execute(begin)
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise
