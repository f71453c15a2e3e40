"""Both kinds of database, for tests that must hold for each: `place` is a new, empty one."""

import itertools

import pytest
from tests.servers.postgres import LOGIN, PASSWORD
from tests.spool.conftest import own_postgres, postgres_server

from relayproxy.postgres import Server

__all__ = ["own_postgres", "postgres_server"]

_NUMBERS = itertools.count()


@pytest.fixture
def postgres_database(postgres_server):
    """A new, empty database, and how to get there."""
    name = f"history{next(_NUMBERS)}"
    postgres_server.create_database(name)
    return Server((("127.0.0.1", postgres_server.port),), name, LOGIN, PASSWORD)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.servers)])
def place(request, tmp_path):
    if request.param == "sqlite":
        return tmp_path / "h.db"
    return request.getfixturevalue("postgres_database")
