"""The PostgreSQL of the spool's tests serves here as well."""

from tests.spool.conftest import new_database, own_postgres, postgres_server

__all__ = ["new_database", "own_postgres", "postgres_server"]
