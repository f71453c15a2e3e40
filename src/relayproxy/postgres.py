"""Where a PostgreSQL server is and how to log in, and making tables there once, as every store of ours wants it.

Must not know what a database is for, and loads no library.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Connection

CONNECT = 5
"""Seconds for a connection."""

_LOCK = 5_927_431_005_003  # of pg_advisory_xact_lock: for making tables
_SSLMODE = {"off": "disable", "opportunistic": "prefer", "required": "require", "verify": "verify-full"}


@dataclass(frozen=True, slots=True)
class Server:
    """Where the database is, and how to log in. `tls` is off, opportunistic, required or verify.

    `hosts` are (name or folder of a socket, port), tried in their order until one takes writes.
    """

    hosts: tuple[tuple[str, int], ...]
    database: str
    login: str = ""
    password: str = ""
    tls: str = "opportunistic"
    ca: str = ""

    def __repr__(self) -> str:
        return f"Server({self.hosts!r}, {self.database!r}, login={self.login!r}, tls={self.tls!r})"

    def parameters(self, options: str) -> dict[str, Any]:
        """Return what the library connects with; `options` are settings of the session."""
        wanted: dict[str, Any] = {
            "host": ",".join(host for host, _ in self.hosts),
            "port": ",".join(str(port) for _, port in self.hosts),
            "dbname": self.database,
            "user": self.login,
            "password": self.password,
            "sslmode": _SSLMODE[self.tls],
            "sslrootcert": self.ca or ("system" if self.tls == "verify" else ""),
            # Whoever is not verified could ask for the password itself; a proof of it is all they get.
            "require_auth": "" if self.tls == "verify" else "!password",
            "target_session_attrs": "read-write",
            "client_encoding": "utf8",
            "application_name": "relayproxy",
            "connect_timeout": CONNECT,
            "tcp_user_timeout": 15_000,
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "options": options,
        }
        return {name: value for name, value in wanted.items() if value != ""}


def version_of(connection: "Connection[Any]", table: str) -> int:
    """Return the version that stands in a table of one number, 0 where there is none. Raises psycopg.Error."""
    # to_regclass would be shorter, but remembers what it has not found, within a transaction.
    statement = "SELECT 1 FROM pg_class WHERE relname = %s AND pg_table_is_visible(oid)"
    if connection.execute(statement, (table,)).fetchone() is None:
        return 0
    row = connection.execute(f"SELECT version FROM {table}").fetchone()  # noqa: S608  (a name of ours)
    return int(row[0]) if row else 0


def make_tables(connection: "Connection[Any]", table: str, schema: str, version: int) -> int:
    """Make tables if there are none, one machine at a time; return their version, which stands in `table`.

    `connection` is in autocommit. Raises psycopg.Error.
    """
    if not version_of(connection, table):
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            if not version_of(connection, table):
                connection.execute(schema)
                connection.execute(f"INSERT INTO {table} VALUES (%s)", (version,))  # noqa: S608  (a name of ours)
    return version_of(connection, table)


def words(error: Exception) -> str:
    """Return what the library says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
