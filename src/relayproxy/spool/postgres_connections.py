"""A worker's few connections to PostgreSQL, made when they are needed: reconnecting with back-off, and time limits.

A pool of the library's own waits for a server that is down; here a call fails at once, as a client waits for its 451.
Whatever goes wrong is a SpoolError. Must not know tables beyond making them.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection, errors

from relayproxy.postgres import Server
from relayproxy.spool.postgres_tables import LOCK, SCHEMA, VERSION
from relayproxy.spool.protocol import SpoolError, SpoolFullError

Connection: TypeAlias = AsyncConnection[tuple[Any, ...]]

CONNECTIONS = 4
"""Connections of one worker."""

_PATIENCE = 30.0  # for a connection and what is done over it; after that the client hears 451
_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)
OPTIONS = (
    # A statement that takes this long has found something wrong; the client has a time limit of its own.
    "-c statement_timeout=25s -c lock_timeout=10s"
    # A worker that is frozen amid a transaction must not keep its rows from others.
    " -c idle_in_transaction_session_timeout=10s"
    # The tables are empty in one minute and long in the next: plans must not rely on what they were.
    " -c enable_seqscan=off"
    " -c client_min_messages=warning"
)


class LostConnectionError(SpoolError):
    """The connection broke while something was being done: nobody knows whether it was."""


class UnreachableError(LostConnectionError):
    """There is no connection, so nothing was done."""


class TakenError(SpoolError):
    """There is a message of that key already."""


class CorruptError(SpoolError):
    """The server can't read what it has stored."""


class Connections:
    """At most `most` connections. `alarm` hears of an outage once, and of what is wrong with the server."""

    def __init__(
        self, server: Server, *, alarm: Callable[[str], None] = lambda _: None, most: int = CONNECTIONS
    ) -> None:
        self._server = server
        self._alarm = alarm
        self._places = asyncio.Semaphore(most)
        self._idle: list[Connection] = []
        self._failures = 0
        self._retry_at = 0.0
        self._told = False
        self._closed = False
        self.unfit = ""
        """What is wrong with the server for good (a wrong version, no syncs), or ""."""

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[Connection]:
        """Lend a connection, in autocommit. Raises SpoolError in time, whatever happens within."""
        try:
            async with asyncio.timeout(_PATIENCE), self._places:
                connection = await self._get()
                try:
                    yield connection
                finally:
                    await self._put(connection)
        except TimeoutError:
            raise SpoolError(f"the database did not answer within {_PATIENCE:g} s") from None
        except psycopg.Error as error:
            raise _problem(error) from error

    async def _get(self) -> Connection:
        if self._closed:
            raise SpoolError("the store is closed")
        if self._idle:
            return self._idle.pop()
        if time.monotonic() < self._retry_at:
            raise UnreachableError("the database could not be reached a moment ago")
        try:
            connection = await self._connect()
        except (psycopg.Error, SpoolError) as error:
            self._wait()
            problem = error if isinstance(error, SpoolError) else _problem(error)
            if not self._told:
                self._told = True
                self._alarm(str(problem))
            raise UnreachableError(str(problem)) from error
        self._failures = 0
        self._told = False
        return connection

    def _wait(self) -> None:
        now = time.monotonic()
        if now >= self._retry_at:  # not once more for each of those that tried at the same time
            pause = _PAUSES[min(self._failures, len(_PAUSES) - 1)]
            self._failures += 1
            self._retry_at = now + pause * (0.8 + 0.4 * random.random())  # noqa: S311  (a jitter)

    async def _put(self, connection: Connection) -> None:
        idle = psycopg.pq.TransactionStatus.IDLE
        if connection.broken or connection.closed:
            # The server has ended: the others are of no use either, and would each fail one call.
            stale, self._idle = self._idle, []
            for one in (connection, *stale):
                await one.close()
        elif self._closed or connection.info.transaction_status != idle:
            await connection.close()
        else:
            self._idle.append(connection)

    async def _connect(self) -> Connection:
        connection: Connection = await AsyncConnection.connect(
            autocommit=True, **self._server.parameters(OPTIONS)
        )
        try:
            await self._examine(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _examine(self, connection: Connection) -> None:
        """Make sure that a commit is durable here, and that the tables are there. Raises SpoolError."""
        row = await (
            await connection.execute(
                "SELECT current_setting('fsync'), current_setting('server_encoding'),"
                " CASE current_setting('synchronous_commit')"
                " WHEN 'off' THEN set_config('synchronous_commit', 'on', false) END"
            )
        ).fetchone()
        assert row is not None
        self.unfit = ""
        if row[0] != "on":
            self.unfit = "the database server runs with fsync = off, so nothing it takes is stored"
        elif row[1] != "UTF8":
            self.unfit = f"the database is in {row[1]}, wanted UTF8"
        else:
            version = await _prepared(connection)
            if version != VERSION:
                self.unfit = f"the database is a spool of version {version}, wanted {VERSION}"
        if self.unfit:
            raise SpoolError(self.unfit)

    async def close(self) -> None:
        """Close what is idle; the others are closed when they come back."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()


async def _prepared(connection: Connection) -> int:
    """Make the tables if there are none, one worker of all machines at a time; return their version."""
    if not await _is_prepared(connection):
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            if not await _is_prepared(connection):
                await connection.execute(SCHEMA)
                await connection.execute("INSERT INTO spool_version VALUES (%s)", (VERSION,))
    row = await (await connection.execute("SELECT version FROM spool_version")).fetchone()
    return int(row[0]) if row else 0


async def _is_prepared(connection: Connection) -> bool:
    # to_regclass would be shorter, but remembers what it has not found, within a transaction.
    found = await connection.execute(
        "SELECT 1 FROM pg_class WHERE relname = 'spool_version' AND pg_table_is_visible(oid)"
    )
    return await found.fetchone() is not None


def _problem(error: psycopg.Error) -> SpoolError:
    """Return what the asker is told."""
    text = " ".join(str(error).split())
    kind = error.sqlstate or ""
    if isinstance(error, errors.DiskFull):
        return SpoolFullError(text)
    if isinstance(error, errors.QueryCanceled):
        return SpoolError(text)
    if isinstance(error, errors.UniqueViolation):
        return TakenError(text)
    # Class XX: data corrupted, index corrupted, and what else should not be.
    if kind.startswith("XX"):
        return CorruptError(text)
    # Class 08: the connection; class 57: the server is shutting down (PostgreSQL's documentation, appendix A).
    if kind.startswith(("08", "57")) or (not kind and isinstance(error, psycopg.OperationalError)):
        return LostConnectionError(text)
    return SpoolError(text or type(error).__name__)
