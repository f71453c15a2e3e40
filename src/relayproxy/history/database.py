"""What questions and reports ask of a history's database, whichever it is: SQLite or PostgreSQL.

Statements are in the SQL that both understand, with question marks for values; what differs is in `keys`. Must not know
what is asked.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

Row: TypeAlias = tuple[Any, ...]


class StoreError(Exception):
    """The history can't be used; the text says why."""


class Database(Protocol):
    """A connection for one asker. Every method raises StoreError when the database fails."""

    keys: Mapping[str, str]
    """Expressions over `e`, the event, that are written differently: day and hour (UTC), as text."""
    properties: str
    """What is joined for the properties of a finding `f`: `p`, with the columns key and value."""

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[Row]:
        """Carry out one statement, a transaction by itself, and return its rows."""
        ...

    def each(self, statement: str, values: Sequence[object] = ()) -> Iterator[Row]:
        """Yield the rows of a question one by one, however many there are; others may be asked meanwhile."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...
