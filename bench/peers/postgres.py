"""relayproxy with its queue in a PostgreSQL of the bench's own, on the same disk and the same cores."""

import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.lab import Place
from bench.peers.relayproxy import RelayProxy
from bench.programs import BenchError, Program, find, first_line, free_port, listens

_USER = "nobody"  # the server refuses to run as root
_SETTINGS = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "max_wal_size=4GB")


def _binary(name: str) -> str:
    """Where a program of the server is; Debian keeps them out of the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return find(name) or next((str(f / name) for f in folders if (f / name).exists()), "")


def _unprivileged() -> tuple[str, ...]:
    if os.geteuid():
        return ()
    return (find("setpriv"), "--reuid", _USER, "--regid", "nogroup", "--clear-groups")


class RelayProxyPostgres(RelayProxy):
    """The server's CPU is not counted; it stands beside the relay as a disk does."""

    def __init__(self) -> None:
        super().__init__("relayproxy-queue-postgres", queue=True)
        self.about += ", in PostgreSQL, whose CPU is not counted"

    def missing(self) -> str:
        return missing_postgres() or super().missing()

    def version(self) -> str:
        return f"{super().version()}, {first_line(_binary('postgres'), '--version')}"

    def _spool(self, place: Place, folder: Path) -> dict[str, Any]:
        _, port = start_postgres(folder, place.stack)
        return {"url": f"postgresql://127.0.0.1:{port}/postgres", "login": "bench"}


def missing_postgres() -> str:
    """Why there can be no server here, or ""."""
    return "" if _binary("initdb") else "postgresql is not installed (Debian: postgresql)"


def start_postgres(folder: Path, stack: ExitStack) -> tuple[Program, int]:
    """Start a server of its own, whose end goes on the stack; return it and its port. Raises BenchError."""
    data, port = folder / "database", free_port()
    data.mkdir(mode=0o700)
    if not os.geteuid():
        folder.chmod(0o755)  # the server's user has to pass through
        shutil.chown(data, _USER, "nogroup")
    made = subprocess.run(
        (
            *_unprivileged(),
            *(_binary("initdb"), "-D", str(data), "-U", "bench", "--auth=trust"),
            *("-E", "UTF8", "--locale=C", "--no-sync"),
        ),
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    if made.returncode:
        raise BenchError(f"initdb failed:\n{made.stderr}")
    settings = (word for one in (f"port={port}", *_SETTINGS) for word in ("-c", one))
    server = Program([*_unprivileged(), _binary("postgres"), "-D", data, *settings], folder / "database.log")
    stack.callback(server.end)
    server.wait_for(lambda: listens(port), "listen on its port")
    return server, port
