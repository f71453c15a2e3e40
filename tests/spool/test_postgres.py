"""The PostgreSQL store: what every store does, and what is its own."""

import itertools

import pytest
import pytest_asyncio
from tests.servers.postgres import LOGIN, PASSWORD, a_postgres
from tests.spool.conformance import StoreConformance
from tests.spool.making import NOW

from relayproxy.spool.postgres import PostgresSpool
from relayproxy.spool.postgres_connections import Server
from relayproxy.testing.clock import FakeClock

_NUMBERS = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server():
    """One server for all tests of this module; each has a database of its own."""
    server = await a_postgres()
    yield server
    await server.end()
    server.remove()


@pytest.fixture
def database(server):
    """A new, empty database."""
    name = f"spool{next(_NUMBERS)}"
    server.create_database(name)
    return Server((("127.0.0.1", server.port),), name, LOGIN, PASSWORD)


@pytest.fixture
async def open_store(database):
    """Open one more way to the same database."""
    opened = []

    def open_one(clock=None, **changes):
        store = PostgresSpool(database, now=(clock or FakeClock(NOW)).time, **changes)
        store.start()
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


class TestConformance(StoreConformance):
    """See conformance.py."""
