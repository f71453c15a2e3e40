"""The history in SQLite: its tables, their version, the way to write to it and the way to ask.

Several processes may open the same file, also for the first time, at once. Must not know what an event means.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from relayproxy.history.database import Row, StoreError
from relayproxy.history.rows import COLUMNS, rows_of
from relayproxy.model.event import KINDS, Event
from relayproxy.sqlite import transaction, write_ahead

VERSION: Final = 1
"""The version of the tables (`PRAGMA user_version`)."""

_PATIENCE = 10.0  # seconds that SQLite waits for another process to finish its transaction
_PATIENCE_AT_START = 1.0  # for others that open it too

_TABLES = """
CREATE TABLE event (
  id INTEGER PRIMARY KEY,
  at REAL NOT NULL,
  kind TEXT NOT NULL,
  mail TEXT NOT NULL,
  outcome TEXT NOT NULL DEFAULT '',
  listener TEXT NOT NULL DEFAULT '',
  route TEXT NOT NULL DEFAULT '',
  direction TEXT NOT NULL DEFAULT '',
  ip TEXT NOT NULL DEFAULT '',
  helo TEXT NOT NULL DEFAULT '',
  login TEXT NOT NULL DEFAULT '',
  tls TEXT NOT NULL DEFAULT '',
  sender TEXT NOT NULL DEFAULT '',
  sender_domain TEXT NOT NULL DEFAULT '',
  campaign TEXT NOT NULL DEFAULT '',
  message_id TEXT NOT NULL DEFAULT '',
  size INTEGER NOT NULL DEFAULT 0,
  code INTEGER NOT NULL DEFAULT 0,
  status TEXT NOT NULL DEFAULT '',
  class TEXT NOT NULL DEFAULT '',
  reply TEXT NOT NULL DEFAULT '',
  reason TEXT NOT NULL DEFAULT '',
  score REAL NOT NULL DEFAULT 0,
  seconds REAL NOT NULL DEFAULT 0,
  hook_seconds REAL NOT NULL DEFAULT 0,
  details TEXT NOT NULL DEFAULT '{}'
) STRICT;
CREATE INDEX event_at ON event (kind, at);
CREATE INDEX event_mail ON event (mail);
CREATE TABLE recipient (
  event INTEGER NOT NULL,
  address TEXT NOT NULL,
  domain TEXT NOT NULL,
  outcome TEXT NOT NULL,
  code INTEGER NOT NULL,
  status TEXT NOT NULL,
  class TEXT NOT NULL,
  reply TEXT NOT NULL
) STRICT;
CREATE INDEX recipient_event ON recipient (event);
CREATE TABLE finding (
  event INTEGER NOT NULL,
  method TEXT NOT NULL,
  result TEXT NOT NULL,
  plugin TEXT NOT NULL,
  score REAL NOT NULL,
  reason TEXT NOT NULL,
  props TEXT NOT NULL
) STRICT;
CREATE INDEX finding_event ON finding (event);
CREATE TABLE sent_report (
  kind TEXT NOT NULL,
  domain TEXT NOT NULL,
  begin INTEGER NOT NULL,
  until INTEGER NOT NULL,
  destination TEXT NOT NULL,
  report TEXT NOT NULL,
  state TEXT NOT NULL,
  at REAL NOT NULL,
  PRIMARY KEY (kind, domain, begin, until, destination)
) STRICT, WITHOUT ROWID;
"""


def open_store(path: Path) -> sqlite3.Connection:
    """Open the history for writing; makes the file and its tables if they are not there. Raises StoreError.

    A crash of the program loses nothing that was committed; one of the machine may lose the last moments, and
    never harms the file (WAL, synchronous=NORMAL). A new file can be read by its owner and group alone.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640))
        connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path}: {error}") from error
    try:
        _prepare(connection)
        version = _version(connection)
    except sqlite3.Error as error:
        connection.close()
        raise StoreError(f"{path}: {error}") from error
    return _known(connection, version, path)


def open_reader(path: Path) -> sqlite3.Connection:
    """Open an existing history for questions only. Raises StoreError."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE)
        version = _version(connection)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from error
    return _known(connection, version, path)


def _known(connection: sqlite3.Connection, version: int, path: Path) -> sqlite3.Connection:
    """Return a connection to tables that we know. Raises StoreError."""
    if version != VERSION:
        connection.close()
        raise StoreError(f"{path} has tables of version {version}; this program knows {VERSION}")
    return connection


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _prepare(connection: sqlite3.Connection) -> None:
    """Set what belongs to the connection, and what belongs to the file if it is new."""
    if _version(connection) == 0:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    write_ahead(connection, _PATIENCE_AT_START)
    connection.execute("PRAGMA synchronous = NORMAL")
    if _version(connection) != 0:
        return
    with transaction(connection):
        if _version(connection) == 0:
            for statement in _TABLES.split(";\n"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")


@contextmanager
def _spoken(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into StoreError."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from error


class SqliteDatabase:
    """Implements Database. `writing` makes the file if it is not there, and takes statements that change it."""

    keys: Mapping[str, str] = {
        "day": "strftime('%Y-%m-%d', e.at, 'unixepoch')",
        "hour": "strftime('%Y-%m-%dT%H', e.at, 'unixepoch')",
    }
    properties = "json_each(f.props) AS p"

    def __init__(self, path: Path, *, writing: bool = False) -> None:
        self._path = path
        self._connection = open_store(path) if writing else open_reader(path)

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[Row]:
        """Carry out one statement."""
        with _spoken(self._path):
            return self._connection.execute(statement, tuple(values)).fetchall()

    def each(self, statement: str, values: Sequence[object] = ()) -> Iterator[Row]:
        """Yield rows one by one."""
        with _spoken(self._path):
            yield from self._connection.execute(statement, tuple(values))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


_CHILDREN = ("recipient", "finding")
_INSERT = f"INSERT INTO event ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"


class SqliteStore:
    """Implements Store (writer.py): where one process writes events."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = open_store(path)

    def write(self, events: Sequence[Event], refuse: Callable[[Exception], None]) -> int:
        """Write events in one transaction."""
        connection = self._connection
        written = 0
        with _spoken(self._path), transaction(connection):
            for event in events:
                try:
                    _insert(connection, event)
                    written += 1
                except (
                    sqlite3.DataError,
                    sqlite3.IntegrityError,
                    ValueError,
                    TypeError,
                    OverflowError,
                ) as error:
                    refuse(error)
        return written

    def forget(self, before: float, most: int) -> int:
        """Delete old events; their pages are given back to the file system a few at a time."""
        connection = self._connection
        marks = ", ".join("?" * len(KINDS))
        # By kind, as the index has it: with nothing to forget, nothing is read.
        statement = f"SELECT id FROM event WHERE kind IN ({marks}) AND at < ? LIMIT ?"
        with _spoken(self._path):
            with transaction(connection):
                ids = [(row[0],) for row in connection.execute(statement, (*KINDS, before, most))]
                for table in _CHILDREN:
                    connection.executemany(f"DELETE FROM {table} WHERE event = ?", ids)
                connection.executemany("DELETE FROM event WHERE id = ?", ids)
                connection.execute("DELETE FROM sent_report WHERE until < ?", (before,))
            connection.execute("PRAGMA incremental_vacuum(1000)").fetchall()
        return len(ids)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _insert(connection: sqlite3.Connection, event: Event) -> None:
    row, recipients, findings = rows_of(event)
    number = connection.execute(_INSERT, row).lastrowid
    if recipients:
        connection.executemany(
            "INSERT INTO recipient VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [(number, *one) for one in recipients]
        )
    if findings:
        connection.executemany(
            "INSERT INTO finding VALUES (?, ?, ?, ?, ?, ?, ?)", [(number, *one) for one in findings]
        )
