"""What the classifier has learned: how many messages of each kind, and in how many of them each word stood (SQLite).

Many processes may read while one learns. Must not know messages, or what follows from a number.
"""

import sqlite3
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Literal, TypeAlias

from relayproxy.sqlite import transaction, write_ahead

Learned: TypeAlias = Literal["new", "moved", "known"]

_VERSION = 1
_WAIT = 5.0  # seconds for another process that learns
_AT_ONCE = 500
_SCHEMA = """
CREATE TABLE words (word INTEGER PRIMARY KEY, spam INTEGER NOT NULL, ham INTEGER NOT NULL);
CREATE TABLE messages (digest BLOB PRIMARY KEY, spam INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE totals (spam INTEGER NOT NULL, ham INTEGER NOT NULL);
INSERT INTO totals VALUES (0, 0);
"""


class StoreFault(Exception):  # noqa: N818  (it is what is wrong with the file)
    """The file can't be used; the message says why."""


class Store:
    """One file. Safe to use from several threads; `create` makes the file if it isn't there. Raises StoreFault."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self._lock = threading.Lock()
        mode = "rwc" if create else "rw"
        try:
            self._base = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}",
                uri=True,
                timeout=_WAIT,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise StoreFault(f"{path}: {error}") from error
        try:
            self._prepare(path, create=create)
        except sqlite3.Error as error:
            self._base.close()
            raise StoreFault(f"{path}: {error}") from error
        except StoreFault:
            self._base.close()
            raise

    def _prepare(self, path: Path, *, create: bool) -> None:
        write_ahead(self._base, _WAIT)
        self._base.execute("PRAGMA synchronous = NORMAL")
        with transaction(self._base, "BEGIN IMMEDIATE" if create else "BEGIN"):
            version = self._base.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and create:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    self._base.execute(statement)
                self._base.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                raise StoreFault(f"{path} is no store of this program's version")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._base.close()

    def totals(self) -> tuple[int, int]:
        """Return how many messages were learned as spam and as ham."""
        with self._lock:
            spam, ham = self._base.execute("SELECT spam, ham FROM totals").fetchone()
        return spam, ham

    def counts(self, words: Collection[int]) -> list[tuple[int, int]]:
        """Return in how many messages of spam and of ham each word stood that is known."""
        found: list[tuple[int, int]] = []
        wanted = list(words)
        with self._lock:
            for start in range(0, len(wanted), _AT_ONCE):
                some = wanted[start : start + _AT_ONCE]
                marks = ",".join("?" * len(some))
                # The text holds nothing but question marks.
                question = f"SELECT spam, ham FROM words WHERE word IN ({marks})"  # noqa: S608  (see above)
                found += self._base.execute(question, some).fetchall()
        return found

    def learn(self, digest: bytes, words: Collection[int], *, spam: bool) -> Learned:
        """Learn a message once; one that was learned as the other kind is moved. Raises StoreFault."""
        try:
            with self._lock:
                return self._learn(digest, words, spam=spam)
        except sqlite3.Error as error:
            raise StoreFault(str(error)) from error

    def _learn(self, digest: bytes, words: Collection[int], *, spam: bool) -> Learned:
        with transaction(self._base):
            row = self._base.execute("SELECT spam FROM messages WHERE digest = ?", (digest,)).fetchone()
            if row is None or bool(row[0]) != spam:
                self._base.execute("INSERT OR REPLACE INTO messages VALUES (?, ?)", (digest, spam))
                self._add(words, int(spam), int(not spam))
                if row is not None:
                    self._add(words, -int(not spam), -int(spam))
        return "new" if row is None else "moved" if bool(row[0]) != spam else "known"

    def _add(self, words: Collection[int], spam: int, ham: int) -> None:
        self._base.execute("UPDATE totals SET spam = spam + ?, ham = ham + ?", (spam, ham))
        self._base.executemany(
            "INSERT INTO words VALUES (?1, max(?2, 0), max(?3, 0)) ON CONFLICT (word) DO UPDATE "
            "SET spam = max(spam + ?2, 0), ham = max(ham + ?3, 0)",
            ((word, spam, ham) for word in words),
        )
