"""One connection to PostgreSQL that takes statements as SQLite does: question marks, one call at a time, SpoolError.

For administrators' commands, which are written once for both stores. Must not know any table but that of the version.
"""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

import psycopg

from relayproxy.postgres import Server
from relayproxy.spool import postgres_tables as tables
from relayproxy.spool.postgres_connections import OPTIONS
from relayproxy.spool.protocol import SpoolError

Cursor = psycopg.Cursor[tuple[Any, ...]]


class Database:
    """The open connection, in autocommit. Every method raises SpoolError."""

    def __init__(self, server: Server) -> None:
        try:
            self._connection = psycopg.connect(autocommit=True, **server.parameters(OPTIONS))
        except psycopg.Error as error:
            raise _problem(error) from error

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Cursor:
        """Run a statement."""
        plain = [str(value) if isinstance(value, Enum) else value for value in values]
        try:
            return self._connection.execute(statement.replace("?", "%s"), plain, binary=True)
        except psycopg.Error as error:
            raise _problem(error) from error

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each of the rows, in one round trip."""
        try:
            with self._connection.cursor() as cursor:
                cursor.executemany(statement.replace("?", "%s"), rows)
        except psycopg.Error as error:
            raise _problem(error) from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def open_spool(server: Server) -> Database:
    """Return a connection to a spool of this version. Raises SpoolError."""
    database = Database(server)
    try:
        _check_version(database)
    except BaseException:
        database.close()
        raise
    return database


def _check_version(database: Database) -> None:
    version = _version(database)
    if not version:
        raise SpoolError("there is no spool in the database yet; it is made at the first start")
    if version != tables.VERSION:
        raise SpoolError(f"the database is a spool of version {version}, wanted {tables.VERSION}")


def _version(database: Database) -> int:
    """Return the version of the spool that is there, or 0."""
    found = database.execute("SELECT to_regclass('spool_version') IS NOT NULL").fetchone()
    if not found or not found[0]:
        return 0
    row = database.execute("SELECT version FROM spool_version").fetchone()
    return int(row[0]) if row else 0


def _problem(error: psycopg.Error) -> SpoolError:
    return SpoolError(" ".join(str(error).split()) or type(error).__name__)
