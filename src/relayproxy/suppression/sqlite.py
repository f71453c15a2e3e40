"""Who gets no more mail, in SQLite: the list itself, the bounces that count towards it, and those nobody understood.

Everything that is written is on the disk when a method returns (WAL, synchronous=FULL). Looking somebody up reads a few
pages that are cached and is done in the loop's thread; whatever writes is for a thread of its own. Must not know mail.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from relayproxy.api import ListFault
from relayproxy.model.suppressed import Suppressed, key_of, keys_for, storable
from relayproxy.sqlite import transaction, write_ahead

_VERSION = 1
_LOOK_WAIT = 0.2  # seconds that a look-up may wait for a lock: it holds the loop
_WRITE_WAIT = 10.0
_MOST_UNKNOWN = 5000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS suppressed(
  address TEXT NOT NULL, scope TEXT NOT NULL, class TEXT NOT NULL, reason TEXT NOT NULL, added REAL NOT NULL,
  expires REAL, source TEXT NOT NULL, PRIMARY KEY(address, scope)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS strikes(
  address TEXT NOT NULL, scope TEXT NOT NULL, message TEXT NOT NULL, at REAL NOT NULL,
  PRIMARY KEY(address, scope, message)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS strikes_at ON strikes(at);
CREATE TABLE IF NOT EXISTS unknown(
  form TEXT PRIMARY KEY, status TEXT NOT NULL, example TEXT NOT NULL, seen INTEGER NOT NULL, last REAL NOT NULL) WITHOUT ROWID;
"""


class SqliteList:
    """The open file; raises ListFault if it can't be. Implements model.suppressed.SuppressionList."""

    remote = False
    patience = remember = 0.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = _connect(path, _WRITE_WAIT)
            version = self._writer.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise ListFault(f"{path} has form {version}, this version reads {_VERSION}")
            self._writer.executescript(f"{_SCHEMA} PRAGMA user_version={_VERSION};")
            self._reader = _connect(path, _LOOK_WAIT)
        except (sqlite3.Error, OSError) as error:
            raise ListFault(f"{path} can't be used: {error}") from error

    def close(self) -> None:
        """See SuppressionList."""
        self._reader.close()
        with self._lock:
            self._writer.close()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ListFault(f"{self.path}: {error}") from error

    # -- reading ------------------------------------------------------------------------------------------------

    def find(self, address: str, scopes: Sequence[str], now: float) -> Suppressed | None:
        """See SuppressionList."""
        key, domain = keys_for(address)
        marks = ",".join("?" * len(scopes))
        with self._faults():
            row = self._reader.execute(
                f"SELECT * FROM suppressed WHERE address IN (?, ?) AND scope IN ({marks})"  # noqa: S608  (marks are only "?")
                " AND (expires IS NULL OR expires > ?) ORDER BY address = ? DESC LIMIT 1",
                (storable(key), storable(domain), *map(storable, scopes), now, storable(key)),
            ).fetchone()
        return Suppressed(*row) if row else None

    def lines(self, now: float, *, scope: str = "", text: str = "") -> Iterator[Suppressed]:
        """See SuppressionList."""
        with self._faults(), closing(_connect(self.path, _WRITE_WAIT)) as connection:
            rows = connection.execute(
                "SELECT * FROM suppressed WHERE (expires IS NULL OR expires > ?) AND (? = '' OR scope = ?)"
                " AND instr(address, ?) ORDER BY address, scope",
                (now, scope, scope, text.lower()),
            )
            yield from (Suppressed(*row) for row in rows)

    def unknown(self) -> list[tuple[str, str, str, int, float]]:
        """See SuppressionList."""
        with self._faults():
            return self._reader.execute("SELECT * FROM unknown ORDER BY seen DESC, form").fetchall()

    # -- writing ------------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._faults(), self._lock, transaction(self._writer) as connection:
            yield connection

    def add(self, lines: Iterable[Suppressed]) -> int:
        """See SuppressionList."""
        count = 0
        with self._transaction() as connection:
            for line in lines:
                _put(connection, line)
                count += 1
        return count

    def remove(self, address: str, scope: str = "") -> int:
        """See SuppressionList."""
        key = key_of(address)
        with self._transaction() as connection:
            connection.execute(
                "DELETE FROM strikes WHERE address = ? AND (? = '' OR scope = ?)", (key, scope, scope)
            )
            found = connection.execute(
                "DELETE FROM suppressed WHERE address = ? AND (? = '' OR scope = ?)", (key, scope, scope)
            )
            return found.rowcount

    def strike(self, line: Suppressed, message: str, *, count: int, within: float) -> bool:
        """See SuppressionList."""
        with self._transaction() as connection:
            key = storable(key_of(line.address))
            connection.execute("DELETE FROM strikes WHERE at <= ?", (line.added - within,))
            connection.execute(
                "INSERT OR IGNORE INTO strikes VALUES (?, ?, ?, ?)", (key, line.scope, message, line.added)
            )
            (so_far,) = connection.execute(
                "SELECT count(*) FROM strikes WHERE address = ? AND scope = ?", (key, line.scope)
            ).fetchone()
            if so_far < count:
                return False
            _put(connection, line)
            return True

    def note_unknown(self, form: str, status: str, example: str, now: float) -> None:
        """See SuppressionList."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO unknown VALUES (?, ?, ?, 1, ?) ON CONFLICT(form) DO UPDATE SET seen = seen + 1, last = excluded.last",
                (storable(form), storable(status), storable(example), now),
            )
            connection.execute(
                "DELETE FROM unknown WHERE form IN (SELECT form FROM unknown ORDER BY last DESC LIMIT -1 OFFSET ?)",
                (_MOST_UNKNOWN,),
            )

    def sweep(self, now: float) -> int:
        """See SuppressionList."""
        with self._transaction() as connection:
            return connection.execute("DELETE FROM suppressed WHERE expires <= ?", (now,)).rowcount


def _connect(path: Path, wait: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=wait, isolation_level=None, check_same_thread=False)
    write_ahead(connection, wait)
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def _put(connection: sqlite3.Connection, line: Suppressed) -> None:
    connection.execute(
        "INSERT INTO suppressed VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT(address, scope) DO UPDATE SET"
        " class = excluded.class, reason = excluded.reason, added = excluded.added, expires = excluded.expires,"
        " source = excluded.source WHERE suppressed.expires IS NOT NULL AND"
        " (excluded.expires IS NULL OR excluded.expires > suppressed.expires)",
        (
            *(storable(text) for text in (key_of(line.address), line.scope, line.class_, line.reason)),
            line.added,
            line.expires,
            storable(line.source),
        ),
    )
