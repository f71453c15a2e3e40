"""Who gets no more mail, in SQLite: the list itself, the bounces that count towards it, and those nobody understood.

Everything that is written is on the disk when a method returns (WAL, synchronous=FULL). Looking somebody up reads a few
pages that are cached and is done in the loop's thread; whatever writes is for a thread of its own. Must not know mail.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from relayproxy.api import to_a_label
from relayproxy.wal import write_ahead

GLOBAL = "global"
"""The scope of everybody's mail; others are `tenant:NAME` and `campaign:NAME`."""

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


class StoreFault(Exception):  # noqa: N818  (it is what is wrong with the file)
    """The file can't be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Suppressed:
    """One line of the list.

    `address` is in lower case; `@example.org` stands for all of a domain. `scope` is "global", "tenant:NAME" or
    "campaign:NAME". `added` and `expires` are seconds since the epoch, `expires` None for ever. `source` says who put it
    there.
    """

    address: str
    scope: str = GLOBAL
    class_: str = "manual"
    reason: str = ""
    added: float = 0.0
    expires: float | None = None
    source: str = ""


def key_of(address: str) -> str:
    """Return an address as it is kept: in lower case, as receivers take it, the domain in A-labels."""
    local, at, domain = address.strip().rpartition("@")
    return f"{local.lower()}@{to_a_label(domain.rstrip('.'))}" if at else address.strip().lower()


def scopes_of(tenant: str, campaign: str) -> tuple[str, ...]:
    """Return the scopes that a message of this tenant and campaign falls into; either may be ""."""
    named = [(GLOBAL, "x"), (f"tenant:{tenant.lower()}", tenant), (f"campaign:{campaign.lower()}", campaign)]
    return tuple(scope for scope, name in named if name)


def widest_known(wanted: str, tenant: str, campaign: str) -> str:
    """Return the scope `wanted` (global, tenant or campaign), the next wider one where the mail has none such."""
    if wanted == "campaign" and campaign:
        return f"campaign:{campaign}"
    return f"tenant:{tenant}" if wanted != GLOBAL and tenant else GLOBAL


class Store:
    """The open file. Raises StoreFault if it can't be opened, and sqlite3.Error for what goes wrong later."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = _connect(path, _WRITE_WAIT)
            version = self._writer.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise StoreFault(f"{path} has form {version}, this version reads {_VERSION}")
            self._writer.executescript(f"{_SCHEMA} PRAGMA user_version={_VERSION};")
            self._reader = _connect(path, _LOOK_WAIT)
        except (sqlite3.Error, OSError) as error:
            raise StoreFault(f"{path} can't be used: {error}") from error

    def close(self) -> None:
        """Close the file, once a thread that is still at it has ended."""
        self._reader.close()
        with self._lock:
            self._writer.close()

    # -- reading ------------------------------------------------------------------------------------------------

    def find(self, address: str, scopes: Sequence[str], now: float) -> Suppressed | None:
        """Return why an address gets no mail of these scopes, or None; its own line before that of its domain."""
        key = key_of(address)
        domain = key[key.rfind("@") :] if "@" in key else key
        marks = ",".join("?" * len(scopes))
        row = self._reader.execute(
            f"SELECT * FROM suppressed WHERE address IN (?, ?) AND scope IN ({marks})"  # noqa: S608  (marks are only "?")
            " AND (expires IS NULL OR expires > ?) ORDER BY address = ? DESC LIMIT 1",
            (key, domain, *scopes, now, key),
        ).fetchone()
        return Suppressed(*row) if row else None

    def lines(self, now: float, *, scope: str = "", text: str = "") -> Iterator[Suppressed]:
        """Yield what is in force, by address; only of a scope, only addresses that hold `text`."""
        with closing(_connect(self.path, _WRITE_WAIT)) as connection:
            rows = connection.execute(
                "SELECT * FROM suppressed WHERE (expires IS NULL OR expires > ?) AND (? = '' OR scope = ?)"
                " AND instr(address, ?) ORDER BY address, scope",
                (now, scope, scope, text.lower()),
            )
            yield from (Suppressed(*row) for row in rows)

    def unknown(self) -> list[tuple[str, str, str, int, float]]:
        """Return bounces that no rule matches: form, status, an example, how often, and when last; the most frequent first."""
        return self._reader.execute("SELECT * FROM unknown ORDER BY seen DESC, form").fetchall()

    # -- writing ------------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                self._writer.execute("ROLLBACK")
                raise
            self._writer.execute("COMMIT")

    def add(self, lines: Iterable[Suppressed]) -> int:
        """Put lines on the list, in one transaction; return how many. One that is there stays if it lasts longer."""
        count = 0
        with self._transaction() as connection:
            for line in lines:
                _put(connection, line)
                count += 1
        return count

    def remove(self, address: str, scope: str = "") -> int:
        """Take an address off the list (of one scope, or of all), with what counted against it; return how many lines."""
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
        """Count a bounce of `message`, once; put the line on the list when there are `count` within `within` seconds."""
        with self._transaction() as connection:
            key = key_of(line.address)
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
        """Count a bounce that no rule matches; when there are too many kinds, those not seen for longest are forgotten."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO unknown VALUES (?, ?, ?, 1, ?) ON CONFLICT(form) DO UPDATE SET seen = seen + 1, last = excluded.last",
                (form, status, example, now),
            )
            connection.execute(
                "DELETE FROM unknown WHERE form IN (SELECT form FROM unknown ORDER BY last DESC LIMIT -1 OFFSET ?)",
                (_MOST_UNKNOWN,),
            )

    def sweep(self, now: float) -> int:
        """Remove what has expired; return how many lines."""
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
        (key_of(line.address), line.scope, line.class_, line.reason, line.added, line.expires, line.source),
    )
