"""A PostgreSQL for the stores that are kept there: one server, started once; each test has a database of its own."""

import itertools
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from tests.servers.postgres import LOGIN, PASSWORD, Postgres, a_postgres

from relayproxy.spool.postgres_connections import Server

_NUMBERS = itertools.count()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server() -> AsyncIterator[Postgres]:
    server = await a_postgres()
    yield server
    await server.end()
    server.remove()


@pytest.fixture
def new_database(postgres_server: Postgres) -> Callable[[], Server]:
    """Makes new, empty databases, and says how to get there."""

    def make() -> Server:
        name = f"spool{next(_NUMBERS)}"
        postgres_server.create_database(name)
        return Server((("127.0.0.1", postgres_server.port),), name, LOGIN, PASSWORD)

    return make


@pytest.fixture
def postgres_database(new_database: Callable[[], Server]) -> Server:
    """A new, empty database, and how to get there."""
    return new_database()


@pytest.fixture
async def own_postgres() -> AsyncIterator[Postgres]:
    """A server that the test may end and start again."""
    server = await a_postgres()
    yield server
    await server.end()
    server.remove()
