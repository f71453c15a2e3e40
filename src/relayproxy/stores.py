"""Which stores the configuration's spool and history are: for a worker, and for an administrator.

A part of the composition root: the one place that knows both. What a configuration doesn't name is not loaded.
"""

import os
import platform
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from relayproxy.config.databases import postgres_places
from relayproxy.config.history import History
from relayproxy.config.operations import Postgres, Spool
from relayproxy.postgres import Server
from relayproxy.spool.protocol import Store

if TYPE_CHECKING:
    from relayproxy.history.database import Database as HistoryDatabase
    from relayproxy.history.writer import Store as HistoryStore
    from relayproxy.spool.listing import Listing


def store_of(spool: Spool, now: Callable[[], float], alarm: Callable[[str], None]) -> Store:
    """Return a worker's way to the store; `alarm` is told when it fails for good. Nothing is opened yet."""
    if spool.path is None:
        from relayproxy.spool.postgres import PostgresSpool

        return PostgresSpool(_server(spool), now=now, alarm=alarm)
    from relayproxy.spool.sqlite import Floors, SqliteSpool

    floors = Floors(spool.min_free, spool.min_free_inodes)
    return SqliteSpool(spool.path, now=now, floors=floors, alarm=alarm)


def listing_of(spool: Spool) -> "Listing":
    """Open the store for an administrator. Raises SpoolError."""
    if spool.path is None:
        from relayproxy.spool.postgres_listing import PostgresListing

        return PostgresListing(_server(spool))
    from relayproxy.spool.listing import Listing

    return Listing(spool.path)


def owner_of(spool: Spool, slot: int) -> str:
    """Return what a worker is called where its leases are shown."""
    process = f"{os.getpid()}.{slot}"
    return process if spool.path is not None else f"{platform.node()}.{process}"


def history_store_of(history: History) -> "Callable[[], HistoryStore]":
    """Return what opens a worker's way to write events, and raises StoreError. Nothing is opened yet."""
    path = history.path
    if path is None:
        from relayproxy.history.postgres import PostgresStore

        return partial(PostgresStore, _server(history))
    from relayproxy.history.store import SqliteStore

    return partial(SqliteStore, path)


def history_of(history: History, *, writing: bool = False) -> "HistoryDatabase":
    """Open the history for questions; with `writing`, also to remember which reports were sent. Raises StoreError."""
    if history.path is None:
        from relayproxy.history.postgres import PostgresDatabase

        return PostgresDatabase(_server(history), writing=writing)
    from relayproxy.history.store import SqliteDatabase

    return SqliteDatabase(history.path, writing=writing)


def _server(database: Postgres) -> Server:
    hosts, name = postgres_places(database.url)
    return Server(
        hosts,
        name,
        database.login or "",
        database.password.reveal() if database.password else "",
        database.tls,
        str(database.ca) if database.ca else "",
    )
