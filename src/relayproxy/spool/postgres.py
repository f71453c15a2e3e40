"""The store in PostgreSQL, for proxies on several machines: any of them takes over the mail of one that has died.

Each acceptance is one transaction, most of them one statement; messages that come at the same time share a commit.
Implements protocol.Spool over the SQLite store's rows. Must not know routes, replies or what a delivery is.
"""

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

from psycopg import AsyncCursor

from relayproxy.model.message import Message
from relayproxy.model.queued import Deposit, Expired, Lease, Progress, Queued, Settlement, Standing
from relayproxy.postgres import Server
from relayproxy.spool import postgres_tables as tables
from relayproxy.spool import postgres_turns as turns
from relayproxy.spool.content import digest_of, mapped_message
from relayproxy.spool.database import Keys, key_at
from relayproxy.spool.postgres_connections import (
    Connection,
    Connections,
    CorruptError,
    LostConnectionError,
    TakenError,
    UnreachableError,
)
from relayproxy.spool.protocol import BrokenEntryError, LeaseLostError, SpoolError
from relayproxy.spool.rows import Stored, first_leases, leases_of, queued_of, rows_of, size_of
from relayproxy.spool.together import Together

INLINE = 65_536
"""Octets up to which a message is in its row; above, in rows of `chunk`."""

CHUNK = 262_144
"""Octets of such a row."""

_NOTHING = Message(b"")
_STORING = 10.0  # seconds for which it is tried to find out about a message that may be stored or not
_SETTLING = 30.0  # seconds for which it is tried to write down a delivery: without that it is made again
_SWEEPER = tables.LOCK + 1

T = TypeVar("T")


class PostgresSpool:
    """One worker's way to the store. Nothing is opened before it is used; make it after the fork."""

    def __init__(
        self,
        server: Server,
        *,
        now: Callable[[], float] = time.time,
        alarm: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._now = now
        self._keys = Keys(now)
        self._turns: dict[str, tuple[int, str]] = {}
        self._connections = Connections(server, alarm=alarm)
        self._storing = Together(self._store_all, weigh=_weight, hopeless=LostConnectionError)
        self._finishing = Together(self._finish_all, hopeless=LostConnectionError)

    def start(self) -> None:
        """Nothing is to be done: a server that is down now may be up when the first message comes."""

    @property
    def failed(self) -> str:
        """What is wrong with the server for good, or ""."""
        return self._connections.unfit

    def room(self) -> bool:
        """See protocol.Spool: only the server knows, and says it when there is none."""
        return True

    # -- storing ---------------------------------------------------------------------------------------------

    async def store(self, deposit: Deposit) -> tuple[Lease, ...]:
        """See protocol.Spool.

        After a connection that broke on the way the same is stored again, under the same key, so that it is there
        once and the answer is true.
        """
        item = self._item(deposit)
        try:
            await self._store(item)
        except UnreachableError:
            raise
        except LostConnectionError:
            await _persist(lambda: self._store(item), _STORING)
        return first_leases(item[0], deposit)

    def _item(self, deposit: Deposit) -> Stored:
        """Give a deposit its key. The octets and the digest of a large one come later."""
        key = self._keys.next()
        if size_of(deposit) > INLINE:
            return key, deposit, b"", None
        content = deposit.lead + bytes(deposit.message)
        return key, deposit, digest_of(content, _NOTHING), content

    async def _store(self, item: Stored) -> None:
        try:
            if item[3] is not None:
                await self._storing.do(item)
                return
            async with self._connections.one() as connection, connection.transaction():
                item = await _cut(connection, item)
                await _insert(connection, [item])
        except TakenError:
            if not await self._is_there(item):
                raise

    async def _store_all(self, items: Sequence[Stored]) -> Sequence[None]:
        async with self._connections.one() as connection:
            await _insert(connection, items)
        return [None] * len(items)

    async def _is_there(self, item: Stored) -> bool:
        """Whether what has this key is this message: what broke on the way had been done."""
        key, deposit, digest, _ = item
        row = await self._row(tables.STORED, (key,))
        return row is not None and row[0] == deposit.id and bytes(row[1]) == (digest or _digest(deposit))

    # -- leases ----------------------------------------------------------------------------------------------

    async def due(self, route: str) -> float | None:
        """See protocol.Spool."""
        row = await self._row(tables.DUE, (route,))
        return None if row is None or row[0] is None else float(row[0])

    async def count(self, route: str) -> int:
        """See protocol.Spool."""
        row = await self._row(tables.COUNT, (route,))
        return int(row[0]) if row else 0

    async def claim(self, route: str, owner: str, until: float, limit: int) -> list[Lease]:
        """See protocol.Spool."""
        turn, last = self._turns.get(route, (0, ""))
        asked = {
            "route": route,
            "owner": owner,
            "now": self._now(),
            "until": until,
            "limit": limit,
            "sign": -1 if turn % turns.LOWEST_EVERY == turns.LOWEST_EVERY - 1 else 1,
            "last": last,
        }
        found = leases_of(sorted(await self._rows(turns.CLAIM, asked), key=lambda row: int(row[-1])))
        self._turns[route] = (turn + 1, found[-1].tenant if found else last)
        return found

    async def claim_aged(
        self, route: str, owner: str, until: float, limit: int, received_before: float, *, unwarned: bool
    ) -> list[Lease]:
        """See protocol.Spool."""
        asked = {
            "route": route,
            "owner": owner,
            "now": self._now(),
            "until": until,
            "limit": limit,
            "below": key_at(received_before),
            "warned": 0 if unwarned else 1,
        }
        found = leases_of(await self._rows(tables.CLAIM_AGED, asked))
        return sorted(found, key=lambda lease: (lease.message, lease.part))

    async def renew(self, leases: Sequence[Lease], until: float) -> list[Lease]:
        """See protocol.Spool."""
        kept = {(row[0], row[1]) for row in await self._rows(tables.RENEW, (until, *_columns(leases)))}
        return [lease for lease in leases if (lease.message, lease.part) not in kept]

    async def release(self, leases: Sequence[Lease], due: float) -> None:
        """See protocol.Spool."""
        await self._changed(tables.RELEASE, (due, *_columns(leases)))

    async def set_aside(self, lease: Lease, reason: str) -> None:
        """See protocol.Spool."""
        if not await self._changed(tables.SET_ASIDE, (reason, lease.message, lease.part, lease.epoch)):
            raise _lost()

    async def expire_held(self, before: float, limit: int) -> list[Expired]:
        """See protocol.Spool."""
        async with self._connections.one() as connection:
            rows = await _all(connection, tables.EXPIRE_HELD, (before, limit))
            if rows:
                await _all(connection, tables.DROP_EMPTY, (sorted({row[0] for row in rows}),))
        return [Expired(row[1], row[2], row[3], row[4], tuple(row[5])) for row in rows]

    async def clamp(self, longest: float) -> int:
        """See protocol.Spool."""
        latest = self._now() + longest
        return await self._changed(tables.CLAMP, (latest, latest))

    # -- settling --------------------------------------------------------------------------------------------

    async def note(self, lease: Lease, progress: Progress, until: float) -> None:
        """See protocol.Spool. An outage is waited for, as when a part is settled."""
        asked = {
            "message": lease.message,
            "part": lease.part,
            "epoch": lease.epoch,
            "until": until,
            **_heard(progress),
        }
        if not await _persist(lambda: self._rows(tables.NOTE, asked), _SETTLING):
            raise _lost()

    async def settle(self, lease: Lease, settlement: Settlement) -> None:
        """See protocol.Spool. An outage is waited for: what is not written down is delivered again."""
        items = [self._item(deposit) for deposit in settlement.deposits]
        everything = not settlement.replies and not settlement.held and not settlement.due
        if everything and not items:
            await _persist(lambda: self._finishing.do(lease), _SETTLING)
            return
        await _persist(lambda: self._settle(lease, settlement, everything, items), _SETTLING)

    async def _settle(
        self, lease: Lease, settlement: Settlement, everything: bool, items: Sequence[Stored]
    ) -> None:
        async with self._connections.one() as connection:
            async with connection.transaction():
                if everything:
                    rows = await _all(connection, tables.FINISH, _columns([lease]))
                else:
                    rows = await _all(connection, tables.CHANGE, _change(lease, settlement))
                if not rows:
                    raise _lost()
                if items:
                    cut = [await _cut(connection, item) if item[3] is None else item for item in items]
                    await _insert(connection, cut)
            if everything and not rows[0][2]:
                await _all(connection, tables.DROP_EMPTY, ([lease.message],))

    async def _finish_all(self, leases: Sequence[Lease]) -> Sequence[LeaseLostError | None]:
        async with self._connections.one() as connection:
            rows = await _all(connection, tables.FINISH, _columns(leases))
            others = sorted({message for message, _, gone in rows if not gone})
            if others:
                await _all(connection, tables.DROP_EMPTY, (others,))
        done = {(message, part) for message, part, _ in rows}
        return [None if (lease.message, lease.part) in done else _lost() for lease in leases]

    # -- reading ---------------------------------------------------------------------------------------------

    async def load(self, leases: Sequence[Lease]) -> list[Queued | BrokenEntryError]:
        """See protocol.Spool."""
        if not leases:
            return []
        try:
            async with self._connections.one() as connection:
                return await _load(connection, leases)
        except CorruptError as error:
            if len(leases) == 1:
                return [BrokenEntryError(str(error))]
        # One that the server can't read must not keep the others.
        return [found for lease in leases for found in await self.load([lease])]

    async def routes(self) -> list[str]:
        """Return the routes of all that waits. Raises SpoolError."""
        return [str(row[0]) for row in await self._rows(tables.ROUTES, ())]

    async def sweep(self) -> int:
        """Delete messages of which no part is left; returns how many. Raises SpoolError.

        They are left where a worker died between the end of two parts that ended at the same moment.
        """
        async with self._connections.one() as connection, connection.transaction():
            (mine,) = await _all(connection, "SELECT pg_try_advisory_xact_lock(%s)", (_SWEEPER,))
            return len(await _all(connection, tables.SWEEP, ())) if mine[0] else 0

    async def close(self) -> None:
        """See protocol.Spool."""
        await self._storing.finish()
        await self._finishing.finish()
        await self._connections.close()

    async def _rows(self, statement: str, values: Any) -> list[tuple[Any, ...]]:
        async with self._connections.one() as connection:
            return await _all(connection, statement, values)

    async def _row(self, statement: str, values: Any) -> tuple[Any, ...] | None:
        rows = await self._rows(statement, values)
        return rows[0] if rows else None

    async def _changed(self, statement: str, values: Any) -> int:
        async with self._connections.one() as connection:
            return (await _run(connection, statement, values)).rowcount


async def _persist(do: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Do something again while the server can't be reached, for so long. Raises SpoolError."""
    until, pause = time.monotonic() + seconds, 0.1
    while True:
        try:
            return await do()
        except LostConnectionError:
            if time.monotonic() + pause > until:
                raise
        await asyncio.sleep(pause)
        pause = min(2 * pause, 2.0)


def _lost() -> LeaseLostError:
    return LeaseLostError("another worker has taken it over")


async def _run(connection: Connection, statement: str, values: Any) -> AsyncCursor[tuple[Any, ...]]:
    return await connection.execute(statement, values, binary=True)


async def _all(connection: Connection, statement: str, values: Any) -> list[tuple[Any, ...]]:
    return list(await (await _run(connection, statement, values)).fetchall())


def _columns(leases: Sequence[Lease]) -> tuple[list[int], list[int], list[int]]:
    return (
        [lease.message for lease in leases],
        [lease.part for lease in leases],
        [lease.epoch for lease in leases],
    )


def _change(lease: Lease, settlement: Settlement) -> dict[str, Any]:
    return {
        "message": lease.message,
        "part": lease.part,
        "epoch": lease.epoch,
        "due": settlement.due,
        "attempted": int(settlement.attempted),
        "warned": int(settlement.warned),
        "standing": str(Standing.HELD if settlement.held else Standing.QUEUED),
        "reason": settlement.held,
        **_heard(settlement),
    }


def _heard(heard: Progress | Settlement) -> dict[str, Any]:
    return {
        "finished": list(heard.finished),
        "numbers": [number for number, _ in heard.replies],
        "replies": [reply for _, reply in heard.replies],
    }


def _weight(item: Stored) -> int:
    return len(item[3] or b"") + 100 * sum(len(part.recipients) for part in item[1].parts)


async def _insert(connection: Connection, items: Sequence[Stored]) -> None:
    columns: list[list[Any]] = []
    for rows, width in zip(rows_of(items), tables.WIDTHS, strict=True):
        columns += [[row[place] for row in rows] for place in range(width)]
    inline = any(item[3] is not None for item in items)
    await _run(connection, tables.STORE if inline else tables.STORE_LARGE, columns)


# -- large contents --------------------------------------------------------------------------------------------


def _pieces(deposit: Deposit) -> Iterator[bytes]:
    """Yield what is stored in pieces of one size, but for the last."""
    rest = deposit.lead
    for chunk in deposit.message.chunks(CHUNK):
        rest += bytes(chunk)
        while len(rest) >= CHUNK:
            yield rest[:CHUNK]
            rest = rest[CHUNK:]
    if rest:
        yield rest


def _digest(deposit: Deposit) -> bytes:
    digest = hashlib.sha256()
    for piece in _pieces(deposit):
        digest.update(piece)
    return digest.digest()


async def _cut(connection: Connection, item: Stored) -> Stored:
    """Store the octets of a large deposit; return it with their digest. Within the caller's transaction."""
    key, deposit, _, _ = item
    digest = hashlib.sha256()
    for number, piece in enumerate(_pieces(deposit)):
        digest.update(piece)
        await _run(connection, tables.STORE_CHUNK, (key, number, piece))
    return key, deposit, digest.digest(), None


async def _chunks(connection: Connection, key: int, size: int) -> AsyncIterator[bytes]:
    for number in range(-(-size // CHUNK)):
        rows = await _all(connection, tables.LOAD_CHUNK, (key, number))
        if not rows:
            raise ValueError("a piece of the content is missing")
        yield rows[0][0]


async def _mapped(connection: Connection, key: int, size: int, digest: bytes) -> Message:
    """Copy a large content into a file that has no name. Raises ValueError where it isn't what was written."""
    seen, length = hashlib.sha256(), 0
    try:
        with tempfile.TemporaryFile(buffering=0) as file:
            async for piece in _chunks(connection, key, size):
                seen.update(piece)
                length += len(piece)
                _write_all(file.fileno(), piece)
            if length != size or seen.digest() != digest:
                raise ValueError("the content is not what was written")
            return mapped_message(file.fileno(), size)
    except OSError as error:
        # The disk of this machine is at fault, not what is stored.
        raise SpoolError(f"a large message can't be copied from the database: {error}") from error


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


async def _load(connection: Connection, leases: Sequence[Lease]) -> list[Queued | BrokenEntryError]:
    keys = sorted({lease.message for lease in leases})
    messages = {row[0]: row[1:] for row in await _all(connection, tables.LOAD_MESSAGES, (keys,))}
    recipients: dict[tuple[int, int], list[tuple[Any, ...]]] = {}
    for message, part, *rest in await _all(connection, tables.LOAD_RECIPIENTS, (keys,)):
        recipients.setdefault((message, part), []).append(tuple(rest))
    found: list[Queued | BrokenEntryError] = []
    for lease in leases:
        row, to = messages.get(lease.message), recipients.get((lease.message, lease.part))
        if row is None or not to:
            missing = "the message is missing" if row is None else "its recipients are missing"
            found.append(BrokenEntryError(missing))
            continue
        try:
            found.append(queued_of(lease, row, to, await _content(connection, lease.message, row)))
        except (ValueError, TypeError, KeyError) as error:
            found.append(BrokenEntryError(f"{type(error).__name__}: {error}"))
    return found


async def _content(connection: Connection, key: int, row: Sequence[Any]) -> Message:
    size, digest, content = row[4], row[6], row[7]
    if content is None:
        return await _mapped(connection, key, size, digest)
    if len(content) != size or digest_of(content, _NOTHING) != digest:
        raise ValueError("the content is not what was written")
    return Message.from_bytes(content)
