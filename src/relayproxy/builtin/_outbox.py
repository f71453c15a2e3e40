"""Events that have to be told, in SQLite, in the order in which they happened, until somebody has taken them.

Whatever `put` returned for is on the disk. All methods are for a thread of their own. Must not know HTTP, nor what an
event says.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relayproxy.sqlite import transaction, write_ahead

_WAIT = 10.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events(
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, at REAL NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sending(
  one INTEGER PRIMARY KEY CHECK (one = 1), owner TEXT NOT NULL, until REAL NOT NULL,
  due REAL NOT NULL, failures INTEGER NOT NULL, problem TEXT NOT NULL);
INSERT OR IGNORE INTO sending VALUES (1, '', 0, 0, 0, '');
"""


@dataclass(frozen=True, slots=True)
class Sending:
    """How sending goes: `failures` in a row, what the last of them was, and when the next try is `due` (since the epoch)."""

    due: float
    failures: int
    problem: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are meant: of these ids, of this name, about this recipient (with * and ?), from before; all must fit."""

    ids: tuple[str, ...] = ()
    event: str = ""
    recipient: str = ""
    before: float | None = None

    def where(self) -> tuple[str, list[Any]]:
        """Return the condition and its values."""
        marks = ", ".join("?" * len(self.ids))
        parts: list[tuple[str, list[Any]]] = [
            (f"id IN ({marks})", list(self.ids)),
            ("json_extract(body, '$.event') = ?", [self.event] if self.event else []),
            (
                "lower(json_extract(body, '$.recipient')) GLOB ?",
                [_glob(self.recipient)] if self.recipient else [],
            ),
            ("at < ?", [self.before] if self.before is not None else []),
        ]
        used = [(text, values) for text, values in parts if values]
        return " AND ".join(text for text, _ in used) or "1", [
            value for _, values in used for value in values
        ]


def _glob(pattern: str) -> str:
    return pattern.lower().replace("[", "[[]")


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
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO events(id, at, body) VALUES (?, ?, ?)",
                [(identity, now, body) for identity, body in events],
            )

    def lease(self, owner: str, now: float, seconds: float) -> bool:
        """Whether `owner` may send until `now` + `seconds`: one worker does, so that the order stays."""
        with self._lock:
            taken = self._connection.execute(
                "UPDATE sending SET owner = ?, until = ? WHERE owner = ? OR until <= ?",
                (owner, now + seconds, owner, now),
            )
            return taken.rowcount == 1

    def release(self, owner: str) -> None:
        """Let another worker send at once."""
        with self._lock:
            self._connection.execute("UPDATE sending SET until = 0 WHERE owner = ?", (owner,))

    def next(self, most: int) -> list[tuple[int, str]]:
        """Return the oldest events, number and text."""
        with self._lock:
            return self._connection.execute(
                "SELECT number, body FROM events ORDER BY number LIMIT ?", (most,)
            ).fetchall()

    def done(self, numbers: Sequence[int]) -> None:
        """Forget events that were taken, and what went wrong before."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM events WHERE number BETWEEN ? AND ?", (numbers[0], numbers[-1]))
            connection.execute("UPDATE sending SET due = 0, failures = 0, problem = ''")

    def failed(self, due: float, problem: str) -> None:
        """Keep that a try has failed, and when the next one is due."""
        with self._lock:
            self._connection.execute(
                "UPDATE sending SET due = ?, failures = failures + 1, problem = ?", (due, problem)
            )

    def sending(self) -> Sending:
        """Return how it goes."""
        with self._lock:
            return Sending(*self._connection.execute("SELECT due, failures, problem FROM sending").fetchone())

    def retry(self) -> None:
        """Let the next try be made at once."""
        with self._lock:
            self._connection.execute("UPDATE sending SET due = 0")

    def expire(self, before: float) -> int:
        """Forget events older than `before`; return how many."""
        with self._lock:
            return self._connection.execute("DELETE FROM events WHERE at < ?", (before,)).rowcount

    def waiting(self, wanted: Filter = Filter()) -> int:
        """Return how many events there are."""
        where, values = wanted.where()
        with self._lock:
            found = self._connection.execute(f"SELECT count(*) FROM events WHERE {where}", values)
            return int(found.fetchone()[0])

    def rows(self, wanted: Filter, limit: int) -> list[tuple[float, str]]:
        """Return the oldest events that are meant: since when they wait, and their text."""
        where, values = wanted.where()
        with self._lock:
            return self._connection.execute(
                f"SELECT at, body FROM events WHERE {where} ORDER BY number LIMIT ?", (*values, limit)
            ).fetchall()

    def drop(self, wanted: Filter) -> int:
        """Delete the events that are meant; return how many."""
        where, values = wanted.where()
        with self._lock:
            return self._connection.execute(f"DELETE FROM events WHERE {where}", values).rowcount

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, transaction(self._connection) as connection:
            yield connection
