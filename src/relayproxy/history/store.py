"""The history's file: its tables, their version, and the two ways to open it.

Knows SQLite and nothing of events. Several processes may open the same file, also for the first time, at once.
"""

import os
import sqlite3
from pathlib import Path
from typing import Final

from relayproxy.model.event import NOTES
from relayproxy.wal import write_ahead

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


class StoreError(Exception):
    """The history can't be used; the text says why."""


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
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _version(connection) == 0:
            for statement in _TABLES.split(";\n"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except sqlite3.Error:
        connection.execute("ROLLBACK")
        raise


_CHILDREN = ("recipient", "finding")
_KINDS = ("message", "refused", "tls", *NOTES)


def forget(connection: sqlite3.Connection, before: float, most: int) -> int:
    """Delete at most `most` events older than `before`, in one transaction; return how many.

    Their pages are given back to the file system a few at a time. Raises sqlite3.Error.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        marks = ", ".join("?" * len(_KINDS))
        # By kind, as the index has it: with nothing to forget, nothing is read.
        statement = f"SELECT id FROM event WHERE kind IN ({marks}) AND at < ? LIMIT ?"  # noqa: S608  (marks only)
        rows = connection.execute(statement, (*_KINDS, before, most))
        ids = [(row[0],) for row in rows]
        for table in _CHILDREN:
            connection.executemany(f"DELETE FROM {table} WHERE event = ?", ids)  # noqa: S608  (names of ours)
        connection.executemany("DELETE FROM event WHERE id = ?", ids)
        connection.execute("DELETE FROM sent_report WHERE until < ?", (before,))
        connection.execute("COMMIT")
    except sqlite3.Error:
        connection.execute("ROLLBACK")
        raise
    connection.execute("PRAGMA incremental_vacuum(1000)").fetchall()
    return len(ids)
