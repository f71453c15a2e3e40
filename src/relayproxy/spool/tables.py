"""The tables of the SQLite store, and every statement that changes them, each for many arguments at once.

The interpreter lets go of its lock with each step of a statement and may wait long to get it back, so many rows go
into one statement. Must not know threads, files or futures. `due` has two meanings that are one: nobody else may touch
a part before then, be it because it waits for its time or because it is leased. Of a held part it is since when.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from relayproxy.model.queued import Expired, Lease, Progress, Settlement, Standing
from relayproxy.spool.protocol import LeaseLostError
from relayproxy.spool.rows import LEASE, Stored, first_leases, leases_of, rows_of
from relayproxy.spool.turns import choose

VERSION = 2

SCHEMA = """
CREATE TABLE message (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL, origin TEXT NOT NULL, sender TEXT NOT NULL, received REAL NOT NULL,
  size INTEGER NOT NULL, meta TEXT NOT NULL, digest BLOB NOT NULL, content BLOB
) STRICT;
CREATE INDEX message_id ON message (id);
CREATE TABLE part (
  message INTEGER NOT NULL, part INTEGER NOT NULL, route TEXT NOT NULL, destination TEXT NOT NULL,
  standing TEXT NOT NULL, reason TEXT NOT NULL, due REAL NOT NULL, attempts INTEGER NOT NULL,
  owner TEXT NOT NULL, epoch INTEGER NOT NULL, warned INTEGER NOT NULL,
  tenant TEXT NOT NULL, priority INTEGER NOT NULL,
  PRIMARY KEY (message, part)
) STRICT, WITHOUT ROWID;
CREATE INDEX part_due ON part (route, due) WHERE standing = 'queued';
CREATE INDEX part_turn ON part (route, priority, tenant, due) WHERE standing = 'queued';
CREATE INDEX part_held ON part (due) WHERE standing = 'held';
CREATE TABLE recipient (
  message INTEGER NOT NULL, number INTEGER NOT NULL, part INTEGER NOT NULL, address TEXT NOT NULL,
  notify TEXT NOT NULL, orcpt TEXT NOT NULL, reply TEXT NOT NULL,
  PRIMARY KEY (message, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE imported (seq INTEGER PRIMARY KEY, at REAL NOT NULL) STRICT;
"""

_ROWS = 100


def _insert(db: sqlite3.Connection, table: str, width: int, rows: Sequence[Sequence[Any]]) -> None:
    one = f"({','.join('?' * width)})"
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        values = ",".join([one] * len(some))
        # `table` is one of three names below.
        db.execute(f"INSERT INTO {table} VALUES {values}", [v for row in some for v in row])


def _marks(count: int) -> str:
    return ",".join("?" * count)


def _slices(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _ROWS):
        yield items[start : start + _ROWS]


def store(db: sqlite3.Connection, items: Sequence[Stored]) -> list[tuple[Lease, ...]]:
    """Insert messages with their parts and recipients."""
    messages, parts, recipients = rows_of(items)
    _insert(db, "message", 9, messages)
    _insert(db, "part", 13, parts)
    _insert(db, "recipient", 7, recipients)
    return [first_leases(key, deposit) for key, deposit, _, _ in items]


Claim: TypeAlias = tuple[str, str, float, float, int, int, str, dict[str, str]]
"""Route, owner, now, until, limit; the number of the turn, the tenant that was served last, and each one's campaign."""


def claim(db: sqlite3.Connection, items: Sequence[Claim]) -> list[tuple[list[Lease], str]]:
    """Lease what is due: all of it, or where that is more than the limit, what is next in turn (turns.py)."""
    found = []
    for route, owner, now, until, limit, turn, last, cursors in items:
        keys, last_served = choose(db, route, now, limit, turn, last, cursors)
        leases: list[Lease] = []
        for some in _slices(keys):
            rows = db.execute(
                # Pairs alone would have SQLite go through all parts: the first condition finds them by their key.
                f"UPDATE part SET owner = ?, due = ?, epoch = epoch + 1 WHERE message IN ({_marks(len(some))})"
                f" AND (message, part) IN (VALUES {','.join(['(?,?)'] * len(some))}) RETURNING {LEASE}",
                [owner, until, *(key for key, _ in some), *(value for key in some for value in key)],
            ).fetchall()
            leases += leases_of(rows)
        place = {key: number for number, key in enumerate(keys)}
        leases.sort(key=lambda lease: place[lease.message, lease.part])
        found.append((leases, last_served))
    return found


Aged: TypeAlias = tuple[str, str, float, float, int, int, bool]
"""Route, owner, now, until, limit, key that all are below, whether only unwarned ones."""


def claim_aged(db: sqlite3.Connection, items: Sequence[Aged]) -> list[list[Lease]]:
    """Lease the oldest messages, whose keys are the smallest, though they may not be due.

    The plus signs keep SQLite from going through all that is due instead of the few that are old.
    """
    found = []
    for route, owner, now, until, limit, below, unwarned in items:
        rows = db.execute(
            "UPDATE part SET owner = ?, due = ?, epoch = epoch + 1 WHERE (message, part) IN ("
            "SELECT message, part FROM part WHERE message < ? AND +route = ? AND +standing = 'queued'"
            " AND (owner = '' OR due <= ?) AND warned <= ? ORDER BY message LIMIT ?"
            f") RETURNING {LEASE}",
            (owner, until, below, route, now, 0 if unwarned else 1, limit),
        ).fetchall()
        found.append(leases_of(rows))
    return found


def renew(db: sqlite3.Connection, items: Sequence[tuple[Sequence[Lease], float]]) -> list[list[Lease]]:
    """Extend leases; each result is the list of those that are lost."""
    lost = []
    for leases, until in items:
        gone = [
            lease
            for lease in leases
            if not db.execute(
                "UPDATE part SET due = ? WHERE message = ? AND part = ? AND epoch = ?",
                (until, lease.message, lease.part, lease.epoch),
            ).rowcount
        ]
        lost.append(gone)
    return lost


def release(db: sqlite3.Connection, items: Sequence[tuple[Sequence[Lease], float]]) -> list[None]:
    """Give leases back; `epoch` goes up, so that the giver can't use them any more."""
    for leases, due in items:
        db.executemany(
            "UPDATE part SET due = ?, owner = '', epoch = epoch + 1 WHERE message = ? AND part = ? AND epoch = ?",
            [(due, lease.message, lease.part, lease.epoch) for lease in leases],
        )
    return [None] * len(items)


Settled: TypeAlias = tuple[Lease, Settlement, bool, Sequence[Stored]]
"""A lease, what it came to, whether all of its recipients are finished, and its new messages."""


def settle(db: sqlite3.Connection, items: Sequence[Settled]) -> list[list[int] | LeaseLostError]:
    """Write what leases came to; each result has the key of the message if it is gone and had a file, or is a loss."""
    whole = [item for item in items if item[2] and not item[3]]
    answers: dict[tuple[int, int], list[int] | LeaseLostError] = {}
    for some in _slices([item[0] for item in whole]):
        answers.update(_finish(db, some))
    for lease, settlement, everything, deposits in items:
        if (lease.message, lease.part) not in answers:
            answers[lease.message, lease.part] = _settle(db, lease, settlement, everything, deposits)
    return [answers[item[0].message, item[0].part] for item in items]


def _finish(
    db: sqlite3.Connection, leases: Sequence[Lease]
) -> dict[tuple[int, int], list[int] | LeaseLostError]:
    """Delete whole parts, and messages of which no part is left. Each result has the keys of those with a file.

    Usually all leases are good and all of their messages gone: then nothing is asked for row by row.
    """
    keys = [lease.message for lease in leases]
    count = len(leases)
    these = (
        f"FROM part WHERE message IN ({_marks(count)})"
        f" AND (message, part, epoch) IN (VALUES {','.join(['(?,?,?)'] * count)})"
    )
    values = [*keys, *(value for lease in leases for value in (lease.message, lease.part, lease.epoch))]
    places = {(lease.message, lease.part) for lease in leases}
    if db.execute(f"SELECT count(*) {these}", values).fetchone()[0] < len(places):
        places = {(row[0], row[1]) for row in db.execute(f"SELECT message, part {these}", values)}
    db.execute(f"DELETE {these}", values)
    left, files = _drop(db, list({message for message, _ in places}))
    for message, part in places:
        if message in left:
            db.execute("DELETE FROM recipient WHERE message = ? AND part = ?", (message, part))
    return {
        (lease.message, lease.part): (
            ([lease.message] if lease.message in files else [])
            if (lease.message, lease.part) in places
            else LeaseLostError("another worker has taken it over")
        )
        for lease in leases
    }


def _drop(db: sqlite3.Connection, keys: Sequence[int]) -> tuple[set[int], set[int]]:
    """Delete those of these messages that have no part left; return the keys of those that stay, and of the files."""
    if not keys:
        return set(), set()
    these = f"IN ({_marks(len(keys))})"
    alone = f"seq {these} AND NOT EXISTS (SELECT 1 FROM part WHERE part.message = message.seq)"
    files = {row[0] for row in db.execute(f"SELECT seq FROM message WHERE content IS NULL AND {alone}", keys)}
    left: set[int] = set()
    if db.execute(f"DELETE FROM message WHERE {alone}", keys).rowcount < len(keys):
        left = {row[0] for row in db.execute(f"SELECT seq FROM message WHERE seq {these}", keys)}
    gone = [key for key in keys if key not in left]
    if gone:
        db.execute(f"DELETE FROM recipient WHERE message IN ({_marks(len(gone))})", gone)
    return left, files


def drop_messages(db: sqlite3.Connection, keys: Sequence[int]) -> set[int]:
    """Delete those of these messages that have no part left; return the keys of those that had a file."""
    return _drop(db, keys)[1]


def _settle(
    db: sqlite3.Connection, lease: Lease, settlement: Settlement, everything: bool, deposits: Sequence[Stored]
) -> list[int] | LeaseLostError:
    place = (lease.message, lease.part)
    current = db.execute("SELECT epoch FROM part WHERE message = ? AND part = ?", place).fetchone()
    if current is None or current[0] != lease.epoch:
        return LeaseLostError("another worker has taken it over")
    store(db, deposits)
    if everything:
        return _finish(db, [lease])[place]
    _heard(db, lease, settlement)
    db.execute(
        "UPDATE part SET owner = '', epoch = epoch + 1, due = ?, attempts = attempts + ?, warned = warned | ?,"
        " standing = ?, reason = ? WHERE message = ? AND part = ?",
        (
            settlement.due,
            int(settlement.attempted),
            int(settlement.warned),
            Standing.HELD if settlement.held else Standing.QUEUED,
            settlement.held,
            *place,
        ),
    )
    return []


def _heard(db: sqlite3.Connection, lease: Lease, heard: Progress | Settlement) -> None:
    """Delete the recipients that are done with, and note what the others heard."""
    for some in _slices(heard.finished):
        db.execute(
            f"DELETE FROM recipient WHERE message = ? AND number IN ({_marks(len(some))})",
            [lease.message, *some],
        )
    db.executemany(
        "UPDATE recipient SET reply = ? WHERE message = ? AND number = ?",
        [(reply, lease.message, number) for number, reply in heard.replies],
    )


def note(
    db: sqlite3.Connection, items: Sequence[tuple[Lease, Progress, float]]
) -> list[LeaseLostError | None]:
    """Write what some recipients of leased parts came to; the leases go on until a time."""
    results: list[LeaseLostError | None] = []
    for lease, progress, until in items:
        if renew(db, [([lease], until)])[0]:
            results.append(LeaseLostError("another worker has taken it over"))
        else:
            _heard(db, lease, progress)
            results.append(None)
    return results


def set_aside(db: sqlite3.Connection, items: Sequence[tuple[Lease, str]]) -> list[LeaseLostError | None]:
    """Mark parts as unreadable."""
    return [
        None
        if db.execute(
            "UPDATE part SET standing = ?, reason = ?, owner = '', epoch = epoch + 1"
            " WHERE message = ? AND part = ? AND epoch = ?",
            (Standing.BROKEN, reason, lease.message, lease.part, lease.epoch),
        ).rowcount
        else LeaseLostError("another worker has taken it over")
        for lease, reason in items
    ]


def clamp(db: sqlite3.Connection, items: Sequence[float]) -> list[int]:
    """Bring what is due later than this forward to it."""
    return [
        db.execute("UPDATE part SET due = ? WHERE standing = 'queued' AND due > ?", (latest, latest)).rowcount
        for latest in items
    ]


def expire_held(
    db: sqlite3.Connection, items: Sequence[tuple[float, int]]
) -> list[tuple[list[Expired], set[int]]]:
    """Delete parts that are held since before a time, at most so many; with them the keys of files to be deleted."""
    found = []
    for before, limit in items:
        rows = db.execute(
            "SELECT seq, part, id, route, reason, sender FROM part JOIN message ON seq = message"
            " WHERE standing = 'held' AND due < ? ORDER BY due LIMIT ?",
            (before, limit),
        ).fetchall()
        expired = []
        for key, part, id_, route, reason, sender in rows:
            addresses = db.execute(
                "DELETE FROM recipient WHERE message = ? AND part = ? RETURNING address", (key, part)
            ).fetchall()
            db.execute("DELETE FROM part WHERE message = ? AND part = ?", (key, part))
            expired.append(Expired(id_, route, reason, sender, tuple(row[0] for row in addresses)))
        gone: set[int] = set()
        for some in _slices(sorted({row[0] for row in rows})):
            gone |= drop_messages(db, some)
        found.append((expired, gone))
    return found
