"""Events that have to be told, in SQLite, in the order in which they happened, until somebody has taken them.

Whatever `put` returned for is on the disk. All methods are for a thread of their own. Must not know HTTP, nor what an
event says.
"""

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from relayproxy.wal import write_ahead

_WAIT = 10.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events(
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, at REAL NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sender(one INTEGER PRIMARY KEY CHECK (one = 1), owner TEXT NOT NULL, until REAL NOT NULL);
INSERT OR IGNORE INTO sender VALUES (1, '', 0);
"""


class Outbox:
    """The open file. Raises sqlite3.Error and OSError for whatever goes wrong."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
        write_ahead(self._connection, _WAIT)
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file, once a thread that is still at it has ended."""
        with self._lock:
            self._connection.close()

    def put(self, events: Iterable[tuple[str, str]], now: float) -> None:
        """Keep events (id and text) in one transaction; one whose id is there already is the same."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(
                    "INSERT OR IGNORE INTO events(id, at, body) VALUES (?, ?, ?)",
                    [(identity, now, body) for identity, body in events],
                )
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def lease(self, owner: str, now: float, seconds: float) -> bool:
        """Whether `owner` may send until `now` + `seconds`: one worker does, so that the order stays."""
        with self._lock:
            taken = self._connection.execute(
                "UPDATE sender SET owner = ?, until = ? WHERE owner = ? OR until <= ?",
                (owner, now + seconds, owner, now),
            )
            return taken.rowcount == 1

    def release(self, owner: str) -> None:
        """Let another worker send at once."""
        with self._lock:
            self._connection.execute("UPDATE sender SET until = 0 WHERE owner = ?", (owner,))

    def next(self, most: int) -> list[tuple[int, str]]:
        """Return the oldest events, number and text."""
        with self._lock:
            return self._connection.execute(
                "SELECT number, body FROM events ORDER BY number LIMIT ?", (most,)
            ).fetchall()

    def done(self, numbers: Sequence[int]) -> None:
        """Forget events that were taken."""
        with self._lock:
            self._connection.execute(
                "DELETE FROM events WHERE number BETWEEN ? AND ?", (numbers[0], numbers[-1])
            )

    def expire(self, before: float) -> int:
        """Forget events older than `before`; return how many."""
        with self._lock:
            return self._connection.execute("DELETE FROM events WHERE at < ?", (before,)).rowcount

    def waiting(self) -> int:
        """Return how many events there are."""
        with self._lock:
            (count,) = self._connection.execute("SELECT count(*) FROM events").fetchone()
            return int(count)
