"""A PostgreSQL for the stores that are kept there: one server, started once; each test has a database of its own."""

import itertools
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.servers.postgres import LOGIN, PASSWORD, Postgres, a_postgres

from relayproxy.postgres import Server

_NUMBERS = itertools.count()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server() -> AsyncIterator[Postgres]:
    server = await a_postgres()
    yield server
    await server.end()
    server.remove()


@pytest.fixture
def postgres_database(postgres_server: Postgres) -> Server:
    """A new, empty database, and how to get there."""
    name = f"spool{next(_NUMBERS)}"
    postgres_server.create_database(name)
    return Server((("127.0.0.1", postgres_server.port),), name, LOGIN, PASSWORD)


@pytest.fixture
async def own_postgres() -> AsyncIterator[Postgres]:
    """A server that the test may end and start again."""
    server = await a_postgres()
    yield server
    await server.end()
    server.remove()
