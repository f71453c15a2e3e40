"""The store as an administrator sees it: lists, counts, and changes to all that a filter finds.

Works beside the running workers, in a process of its own. What a worker has leased just now is left alone, so that
nothing is both delivered and, say, held. Must not know how anything is printed.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from relayproxy.model.queued import GIVEN_UP, Row, Standing
from relayproxy.spool.content import ContentFiles
from relayproxy.spool.database import open_database, refusals, transaction
from relayproxy.spool.protocol import SpoolError
from relayproxy.spool.tables import drop_messages

_SOME = 500
_HEAD = 65_536


@dataclass(frozen=True, slots=True)
class Filter:
    """What to find; an empty field holds for all. Patterns have `*` and `?`, and no upper or lower case."""

    ids: tuple[str, ...] = ()
    sender: str = ""
    recipient: str = ""
    route: str = ""
    standing: tuple[Standing, ...] = ()
    older: float = 0.0

    def where(
        self, now: float, pattern: str = "GLOB", write: Callable[[str], str] = str
    ) -> tuple[str, list[Any]]:
        """Return the condition over `part` and `message`, and its values.

        `pattern` is the database's operator, and `write` gives it the pattern in its own way of writing.
        """
        terms, values = ["1 = 1"], list[Any]()
        if self.ids:
            terms.append(f"message.id IN ({','.join('?' * len(self.ids))})")
            values += self.ids
        if self.sender:
            terms.append(f"lower(message.sender) {pattern} lower(?)")
            values.append(write(self.sender))
        if self.recipient:
            terms.append(
                "EXISTS (SELECT 1 FROM recipient WHERE recipient.message = part.message"
                f" AND recipient.part = part.part AND lower(recipient.address) {pattern} lower(?))"
            )
            values.append(write(self.recipient))
        if self.route:
            terms.append("part.route = ?")
            values.append(self.route)
        if self.standing:
            terms.append(f"part.standing IN ({','.join('?' * len(self.standing))})")
            values += self.standing
        if self.older:
            terms.append("message.received <= ?")
            values.append(now - self.older)
        return " AND ".join(terms), values


class Listing:
    """A way to the store for an administrator; use as a context manager. Raises SpoolError for what can't be done.

    What another database needs otherwise is in the methods with an underscore.
    """

    _begin = "BEGIN IMMEDIATE"

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise SpoolError(f"{path} is not there")
        self._files = ContentFiles(path.parent / "content")
        with refusals():
            self._db: Any = open_database(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def _where(self, wanted: Filter) -> tuple[str, list[Any]]:
        return wanted.where(time.time())

    def count(self, wanted: Filter) -> int:
        """Return how many parts a filter finds."""
        where, values = self._where(wanted)
        with refusals():
            found = self._db.execute(
                f"SELECT count(*) FROM part JOIN message ON seq = message WHERE {where}", values
            )
            return int(found.fetchone()[0])

    def rows(self, wanted: Filter, limit: int) -> list[Row]:
        """Return what a filter finds, the oldest first, at most `limit`."""
        where, values = self._where(wanted)
        with refusals():
            found = self._db.execute(
                "SELECT id, message, part, sender, route, destination, standing, reason, size, received, due,"
                f" attempts, owner, origin FROM part JOIN message ON seq = message WHERE {where}"
                " ORDER BY message, part LIMIT ?",
                [*values, limit],
            ).fetchall()
            return [self._row(row) for row in found]

    def _row(self, row: tuple[Any, ...]) -> Row:
        recipients = self._db.execute(
            "SELECT address, reply FROM recipient WHERE message = ? AND part = ? ORDER BY number",
            (row[1], row[2]),
        ).fetchall()
        id_, message, part, sender, route, destination, standing, *rest = row
        return Row(
            id_,
            message,
            part,
            sender,
            tuple((address, reply) for address, reply in recipients),
            route,
            destination,
            Standing(standing),
            *rest,
        )

    def content(self, message: int) -> bytes:
        """Return the octets of a message. Raises SpoolError."""
        with refusals():
            found = self._db.execute("SELECT content FROM message WHERE seq = ?", (message,)).fetchone()
            if found is None:
                raise SpoolError("the message is not there any more")
            return bytes(found[0]) if found[0] is not None else self._files.place(message).read_bytes()

    def head(self, message: int) -> bytes:
        """Return the header of a message, or of a very long one the beginning. Raises SpoolError."""
        with refusals():
            found = self._db.execute(
                "SELECT substr(content, 1, ?) FROM message WHERE seq = ?", (_HEAD, message)
            ).fetchone()
            if found is None:
                return b""
            octets = bytes(found[0]) if found[0] is not None else self._first_octets(message, _HEAD)
        return octets.partition(b"\r\n\r\n")[0] + b"\r\n"

    def _first_octets(self, message: int, count: int) -> bytes:
        """Return the beginning of a content that is not in the row of its message."""
        with self._files.place(message).open("rb") as file:
            return file.read(count)

    def summary(self) -> list[dict[str, Any]]:
        """Return for each route and standing: parts, those that are due, the oldest, and the octets."""
        now = time.time()
        with refusals():
            found = self._db.execute(
                "SELECT route, standing, count(*), count(*) FILTER (WHERE due <= ?), min(received),"
                " CAST(sum(size) AS bigint)"
                " FROM part JOIN message ON seq = message GROUP BY route, standing ORDER BY route, standing",
                (now,),
            ).fetchall()
        names = ("route", "standing", "count", "due", "oldest", "octets")
        return [dict(zip(names, row, strict=True)) for row in found]

    # -- changes ---------------------------------------------------------------------------------------------

    def hold(self, wanted: Filter, reason: str) -> int:
        """Keep what is found from being tried; return how many."""
        return self._change(
            wanted,
            (Standing.QUEUED,),
            "standing = ?, reason = ?, due = ?",
            (Standing.HELD, reason or "held by an administrator", time.time()),
        )

    def unhold(self, wanted: Filter) -> int:
        """Let what is held go: it is due now, also for who had been refused for good; return how many."""
        return self._change(
            wanted,
            (Standing.HELD, Standing.BROKEN),
            "standing = ?, reason = '', due = ?",
            (Standing.QUEUED, time.time()),
            anew=True,
        )

    def retry(self, wanted: Filter) -> int:
        """Make what is found due now; return how many."""
        return self._change(wanted, (Standing.QUEUED,), "due = ?", (time.time(),))

    def reroute(self, wanted: Filter, route: str) -> int:
        """Give what is found to another route, due now, also for who had been refused for good; return how many."""
        return self._change(wanted, (Standing.QUEUED,), "route = ?, due = ?", (route, time.time()), anew=True)

    def forget_leases(self) -> int:
        """Make due what dead workers have leased; only while no worker lives. Return how many parts that are."""
        with transaction(self._db, self._begin):
            changed = self._db.execute(
                "UPDATE part SET owner = '', due = ?, epoch = epoch + 1 WHERE standing = 'queued' AND owner <> ''",
                (time.time(),),
            )
            return int(changed.rowcount)

    def fail(self, wanted: Filter) -> int:
        """Have what is found reported to its senders as failed; return how many."""
        return self._change(
            wanted,
            (Standing.QUEUED, Standing.HELD),
            "standing = ?, reason = ?, due = ?",
            (Standing.QUEUED, GIVEN_UP, time.time()),
        )

    def _change(
        self,
        wanted: Filter,
        standing: tuple[Standing, ...],
        what: str,
        values: tuple[Any, ...],
        *,
        anew: bool = False,
    ) -> int:
        """Change what is found; `anew` forgets that the next hop refused somebody for good, so that it is asked again."""
        changed = 0
        for keys in self._found(wanted, standing):
            with transaction(self._db, self._begin):
                for key in keys:
                    done = self._db.execute(
                        f"UPDATE part SET {what}, epoch = epoch + 1"
                        " WHERE message = ? AND part = ? AND (owner = '' OR due <= ?)",
                        (*values, *key, time.time()),
                    ).rowcount
                    if anew and done:
                        self._db.execute(
                            "UPDATE recipient SET reply = '' WHERE message = ? AND part = ?"
                            " AND substr(reply, 1, 1) = '5'",
                            key,
                        )
                    changed += done
        return changed

    def drop(self, wanted: Filter) -> int:
        """Delete what is found, and tell nobody; return how many."""
        dropped = 0
        for keys in self._found(wanted, tuple(Standing)):
            with transaction(self._db, self._begin):
                for key in keys:
                    gone = self._db.execute(
                        "DELETE FROM part WHERE message = ? AND part = ? AND (owner = '' OR due <= ?)",
                        (*key, time.time()),
                    ).rowcount
                    if gone:
                        self._db.execute("DELETE FROM recipient WHERE message = ? AND part = ?", key)
                    dropped += gone
                ended = self._drop_empty(list({message for message, _ in keys}))
            self._remove(ended)
        return dropped

    def _drop_empty(self, keys: list[int]) -> set[int]:
        """Delete those of these messages of which no part is left; return the keys of those that had a file."""
        return drop_messages(self._db, keys)

    def _remove(self, keys: set[int]) -> None:
        """Delete what is outside the database of messages that are gone."""
        for key in keys:
            self._files.remove(key)

    def _found(self, wanted: Filter, standing: tuple[Standing, ...]) -> Iterator[list[tuple[int, int]]]:
        """Yield the keys of what is found, some at a time, so that workers get their turns in between."""
        where, values = self._where(wanted)
        with refusals():
            keys = self._db.execute(
                f"SELECT part.message, part.part FROM part JOIN message ON seq = message WHERE {where}"
                f" AND part.standing IN ({','.join('?' * len(standing))}) ORDER BY 1, 2",
                [*values, *standing],
            ).fetchall()
        for start in range(0, len(keys), _SOME):
            yield keys[start : start + _SOME]
