"""The store in PostgreSQL as an administrator sees it: the same as any other, in this database's way of speaking."""

import time
from typing import Any

from relayproxy.postgres import Server
from relayproxy.spool import postgres_tables as tables
from relayproxy.spool.listing import Filter, Listing
from relayproxy.spool.postgres_database import open_spool
from relayproxy.spool.protocol import SpoolError


class PostgresListing(Listing):
    """A way to the database at `server` for an administrator."""

    _begin = "BEGIN"

    def __init__(self, server: Server) -> None:
        self._db = open_spool(server)

    def content(self, message: int) -> bytes:
        """Return the octets of a message. Raises SpoolError."""
        found = self._db.execute("SELECT content FROM message WHERE seq = ?", (message,)).fetchone()
        if found is None:
            raise SpoolError("the message is not there any more")
        if found[0] is not None:
            return bytes(found[0])
        pieces = self._db.execute("SELECT octets FROM chunk WHERE message = ? ORDER BY number", (message,))
        return b"".join(row[0] for row in pieces.fetchall())

    def _first_octets(self, message: int, count: int) -> bytes:
        found = self._db.execute(
            "SELECT substr(octets, 1, ?) FROM chunk WHERE message = ? AND number = 0", (count, message)
        ).fetchone()
        return bytes(found[0]) if found else b""

    def _where(self, wanted: Filter) -> tuple[str, list[Any]]:
        return wanted.where(time.time(), "LIKE", _like)

    def _drop_empty(self, keys: list[int]) -> set[int]:
        return {row[0] for row in self._db.execute(tables.DROP_EMPTY, (keys,)).fetchall()}

    def _remove(self, keys: set[int]) -> None:
        """Nothing of a message is outside the database."""


def _like(pattern: str) -> str:
    """Write a pattern with `*` and `?` for LIKE, whose escape is a backslash."""
    for character in "\\%_":
        pattern = pattern.replace(character, f"\\{character}")
    return pattern.replace("*", "%").replace("?", "_")
