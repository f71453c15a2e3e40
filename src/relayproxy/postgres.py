"""Where a PostgreSQL server is and how to log in, as every store of ours wants it.

Must not know what a database is for, and loads no library.
"""

from dataclasses import dataclass
from typing import Any

CONNECT = 5
"""Seconds for a connection."""

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
