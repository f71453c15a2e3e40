"""SQLite's write-ahead log, as every store of ours wants it: readers go on while somebody writes.

Must not know what a database is for.
"""

import sqlite3
import time

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
