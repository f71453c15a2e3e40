"""SQLite as every store of ours wants it: a write-ahead log, so that readers go on while somebody writes, and transactions.

Must not know what a database is for.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

_NAP = 0.01


def write_ahead(database: sqlite3.Connection, patience: float) -> None:
    """Set the journal mode WAL, which stays with the file; wait up to `patience` seconds for others. Raises sqlite3.Error.

    To change it SQLite itself waits for nobody, whatever the connection's time-out: workers that open a new file at the
    same time would hear that it is locked.
    """
    until = time.monotonic() + patience
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(_NAP)
        else:
            return


@contextmanager
def transaction(database: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
    """Do all of a block or nothing of it, over a connection in autocommit (`isolation_level=None`). Raises sqlite3.Error.

    What a block can't commit doesn't stay open either: the next one would find a transaction within a transaction.
    """
    database.execute(begin)
    try:
        yield database
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # a full disk may have ended it
            database.execute("ROLLBACK")
        raise
