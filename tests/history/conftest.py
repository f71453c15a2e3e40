"""Both kinds of database, for tests that must hold for each: `place` is a new, empty one."""

import pytest
from tests.spool.conftest import own_postgres, postgres_database, postgres_server

__all__ = ["own_postgres", "postgres_database", "postgres_server"]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.servers)])
def place(request, tmp_path):
    if request.param == "sqlite":
        return tmp_path / "h.db"
    return request.getfixturevalue("postgres_database")
