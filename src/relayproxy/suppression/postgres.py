"""The list in PostgreSQL, for proxies on several machines: what one has written down, all of them look up.

Two connections, made when they are needed: one for look-ups, one for what is written, so that neither waits for the
other. While the server can't be reached a call fails at once. Must not know mail.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import psycopg

from relayproxy.api import ListFault
from relayproxy.model.suppressed import Suppressed, key_of, keys_for, storable
from relayproxy.postgres import Server, make_tables, words

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

_VERSION = 1
_STRIKES = 592_743  # of the same with two numbers: for counting the bounces of one address
_PAUSE = 2.0  # seconds for which a server that could not be reached is left alone
_LONGEST = 120.0  # seconds for a statement that writes: an import may be long
_MOST_UNKNOWN = 5000
_SOME = 1000
_SCHEMA = """
CREATE TABLE suppression_list (
  address text COLLATE "C" NOT NULL, scope text COLLATE "C" NOT NULL, class text NOT NULL, reason text NOT NULL,
  added double precision NOT NULL, expires double precision, source text NOT NULL, PRIMARY KEY (address, scope));
CREATE INDEX suppression_expires ON suppression_list (expires) WHERE expires IS NOT NULL;
CREATE TABLE suppression_strike (
  address text COLLATE "C" NOT NULL, scope text COLLATE "C" NOT NULL, message text NOT NULL, at double precision NOT NULL,
  PRIMARY KEY (address, scope, message));
CREATE INDEX suppression_strike_at ON suppression_strike (at);
CREATE TABLE suppression_unknown (
  form text PRIMARY KEY, status text NOT NULL, example text NOT NULL, seen bigint NOT NULL, last double precision NOT NULL);
CREATE TABLE suppression_version (version integer NOT NULL);
"""
_COLUMNS = "address, scope, class, reason, added, expires, source"
_FIND = (
    f"SELECT {_COLUMNS} FROM suppression_list WHERE address = ANY(%s) AND scope = ANY(%s)"
    " AND (expires IS NULL OR expires > %s) ORDER BY address = %s DESC LIMIT 1"
)
_LINES = (
    f"SELECT {_COLUMNS} FROM suppression_list WHERE (expires IS NULL OR expires > %s) AND (%s = '' OR scope = %s)"
    " AND position(%s IN address) > 0 ORDER BY address, scope"
)
_PUT = (
    f"INSERT INTO suppression_list AS old ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s)"
    " ON CONFLICT (address, scope) DO UPDATE SET class = excluded.class, reason = excluded.reason,"
    " added = excluded.added, expires = excluded.expires, source = excluded.source WHERE old.expires IS NOT NULL AND"
    " (excluded.expires IS NULL OR excluded.expires > old.expires)"
)
_FORGET = (
    "DELETE FROM suppression_unknown WHERE form IN"
    " (SELECT form FROM suppression_unknown ORDER BY last DESC OFFSET %s)"
)


class PostgresList:
    """The list at `server`; a look-up may take `timeout` seconds, its answer counts for `remember`. Implements model.suppressed.SuppressionList."""

    remote = True

    def __init__(self, server: Server, timeout: float = 2.0, remember: float = 0.0) -> None:
        self.patience = timeout
        self.remember = remember
        self._reading = _Line(server, timeout)
        self._writing = _Line(server, _LONGEST)

    def close(self) -> None:
        """See SuppressionList."""
        self._reading.close()
        self._writing.close()

    # -- reading ------------------------------------------------------------------------------------------------

    def find(self, address: str, scopes: Sequence[str], now: float) -> Suppressed | None:
        """See SuppressionList."""
        key, domain = keys_for(address)
        with self._reading.use() as connection:
            found = connection.execute(
                _FIND,
                ([storable(key), storable(domain)], [storable(one) for one in scopes], now, storable(key)),
            )
            row = found.fetchone()
        return Suppressed(*row) if row else None

    def lines(self, now: float, *, scope: str = "", text: str = "") -> Iterator[Suppressed]:
        """See SuppressionList."""
        with (
            self._writing.use() as connection,
            connection.transaction(),
            # In pieces, as there may be a million.
            connection.cursor("lines") as cursor,
        ):
            cursor.itersize = _SOME
            for row in cursor.execute(_LINES, (now, scope, scope, storable(text.lower()))):
                yield Suppressed(*row)

    def unknown(self) -> list[tuple[str, str, str, int, float]]:
        """See SuppressionList."""
        with self._reading.use() as connection:
            found = connection.execute(
                "SELECT form, status, example, seen, last FROM suppression_unknown"
                ' ORDER BY seen DESC, form COLLATE "C"'
            )
            return [(row[0], row[1], row[2], row[3], row[4]) for row in found]

    # -- writing ------------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._writing.use() as connection, connection.transaction():
            yield connection

    def add(self, lines: Iterable[Suppressed]) -> int:
        """See SuppressionList."""
        rows = [_row(line) for line in lines]
        # In one order everywhere: two imports at once would wait for each other for ever.
        rows.sort(key=lambda row: row[:2])
        with self._transaction() as connection, connection.cursor() as cursor:
            cursor.executemany(_PUT, rows)
        return len(rows)

    def remove(self, address: str, scope: str = "") -> int:
        """See SuppressionList."""
        asked = (storable(key_of(address)), scope, scope)
        with self._transaction() as connection:
            connection.execute(
                "DELETE FROM suppression_strike WHERE address = %s AND (%s = '' OR scope = %s)", asked
            )
            found = connection.execute(
                "DELETE FROM suppression_list WHERE address = %s AND (%s = '' OR scope = %s)", asked
            )
            return found.rowcount

    def strike(self, line: Suppressed, message: str, *, count: int, within: float) -> bool:
        """See SuppressionList."""
        row = _row(line)
        key, scope = row[:2]
        with self._transaction() as connection:
            # Two machines that count at the same moment would each miss the other's.
            connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_STRIKES, key))
            connection.execute(
                "DELETE FROM suppression_strike WHERE address = %s AND scope = %s AND at <= %s",
                (key, scope, line.added - within),
            )
            connection.execute(
                "INSERT INTO suppression_strike VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
                (key, scope, storable(message), line.added),
            )
            found = connection.execute(
                "SELECT count(*) FROM suppression_strike WHERE address = %s AND scope = %s", (key, scope)
            ).fetchone()
            if found is None or found[0] < count:
                return False
            connection.execute(_PUT, row)
            return True

    def note_unknown(self, form: str, status: str, example: str, now: float) -> None:
        """See SuppressionList."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO suppression_unknown AS old VALUES (%s, %s, %s, 1, %s)"
                " ON CONFLICT (form) DO UPDATE SET seen = old.seen + 1, last = excluded.last",
                (storable(form), storable(status), storable(example), now),
            )
            connection.execute(_FORGET, (_MOST_UNKNOWN,))

    def sweep(self, now: float) -> int:
        """See SuppressionList. Bounces that count no more for anybody (after a year) go as well."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM suppression_strike WHERE at <= %s", (now - 366 * 86_400.0,))
            return connection.execute("DELETE FROM suppression_list WHERE expires <= %s", (now,)).rowcount


class _Line:
    """A connection that one thread uses at a time. Raises ListFault for whatever goes wrong."""

    def __init__(self, server: Server, timeout: float) -> None:
        self._server = server
        self._timeout = timeout
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._retry_at = 0.0

    @contextmanager
    def use(self) -> Iterator[Connection]:
        """Lend the connection, in autocommit."""
        if not self._lock.acquire(timeout=self._timeout):
            raise ListFault("the database is slow: others still wait for their answer")
        try:
            connection = self._connected()
            try:
                yield connection
            except psycopg.Error as error:
                raise ListFault(words(error)) from error
            finally:
                if connection.broken or connection.closed:
                    self._connection = None
        finally:
            self._lock.release()

    def _connected(self) -> Connection:
        if self._connection is not None:
            return self._connection
        if time.monotonic() < self._retry_at:
            raise ListFault("the database could not be reached a moment ago")
        milliseconds = int(self._timeout * 1000)
        options = f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} -c client_min_messages=warning"
        try:
            made: Connection = psycopg.connect(autocommit=True, **self._server.parameters(options))
            try:
                _prepare(made)
            except BaseException:
                made.close()
                raise
        except psycopg.Error as error:
            self._retry_at = time.monotonic() + _PAUSE
            raise ListFault(words(error)) from error
        self._connection = made
        return made

    def close(self) -> None:
        """Close it, once a thread that is still at it has ended."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _prepare(connection: Connection) -> None:
    """Make the tables where there are none, and commits durable. Raises psycopg.Error and ListFault."""
    durable = connection.execute(
        "SELECT current_setting('fsync'), CASE current_setting('synchronous_commit')"
        " WHEN 'off' THEN set_config('synchronous_commit', 'on', false) END"
    ).fetchone()
    if durable is None or durable[0] != "on":
        raise ListFault("the database server runs with fsync = off, so nothing it takes is stored")
    version = make_tables(connection, "suppression_version", _SCHEMA, _VERSION)
    if version != _VERSION:
        raise ListFault(f"the list in the database has form {version}, this version reads {_VERSION}")


def _row(line: Suppressed) -> tuple[Any, ...]:
    address, scope, class_ = map(storable, (key_of(line.address), line.scope, line.class_))
    return address, scope, class_, storable(line.reason), line.added, line.expires, storable(line.source)
