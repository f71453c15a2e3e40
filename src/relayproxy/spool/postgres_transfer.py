"""A queue out of the PostgreSQL store into an archive, and back: what transfer.py does, in this database's way.

Must not know routes, nor how anything is printed.
"""

from collections.abc import Iterable

from relayproxy.postgres import Server
from relayproxy.spool import postgres_tables as tables
from relayproxy.spool.postgres import CHUNK, INLINE
from relayproxy.spool.postgres_database import open_spool
from relayproxy.spool.transfer import Transfer


class PostgresTransfer(Transfer):
    """A way to the database at `server` for moving its queue. Raises SpoolError."""

    _begin = "BEGIN"
    _begin_reading = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    _inline = INLINE

    def __init__(self, server: Server) -> None:
        self._db = open_spool(server)

    def _outside(self, key: int) -> bytes:
        rows = self._db.execute(
            "SELECT octets FROM chunk WHERE message = ? ORDER BY number", (key,)
        ).fetchall()
        return b"".join(row[0] for row in rows)

    def _put_outside(self, key: int, content: bytes) -> None:
        pieces = [content[start : start + CHUNK] for start in range(0, len(content), CHUNK)]
        self._db.executemany(
            "INSERT INTO chunk VALUES (?, ?, ?)",
            [(key, number, piece) for number, piece in enumerate(pieces)],
        )

    def _look_for_room(self) -> None:
        """Only the server knows, and says it when there is none."""

    def _drop_empty(self, keys: list[int]) -> set[int]:
        return {row[0] for row in self._db.execute(tables.DROP_EMPTY, (keys,)).fetchall()}

    def _remove(self, keys: Iterable[int]) -> None:
        """Nothing of a message is outside the database."""
