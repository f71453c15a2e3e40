"""A PostgreSQL of the test's own: a new cluster in a temporary folder, loopback, a free port, an unprivileged user."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg
from tests.servers.process import Process, do_without, free_port, program, public_folder

LOGIN = "spooler"
PASSWORD = "a-test-password"
_USER = "nobody"  # the server refuses to run as root


def _found(name: str) -> str | None:
    """The path of a program of the server's, which Debian keeps out of the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name) or next((str(f / name) for f in folders if (f / name).exists()), None)


class Postgres(Process):
    """The server; `start` brings it back on the same port with what it had."""

    def __init__(self) -> None:
        self.folder = public_folder("postgres")
        super().__init__("postgres", self.folder / "log")
        self.port = free_port()

    def _as_user(self) -> tuple[str, ...]:
        if os.geteuid():
            return ()
        return (program("setpriv"), "--reuid", _USER, "--regid", "nogroup", "--clear-groups")

    def create(self) -> None:
        initdb = _found("initdb")
        if not initdb or not _found("postgres"):
            do_without("postgresql is not installed")
        data, secret = self.folder / "data", self.folder / "password"
        data.mkdir(mode=0o700)
        secret.write_text(PASSWORD)
        if not os.geteuid():
            shutil.chown(data, _USER, "nogroup")
        done = subprocess.run(
            (
                *self._as_user(),
                *(str(initdb), "-D", str(data), "-U", LOGIN, f"--pwfile={secret}", "--auth=scram-sha-256"),
                *("-E", "UTF8", "--locale=C", "--no-sync"),
            ),
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
        assert done.returncode == 0, done.stderr

    def copy(self, primary: "Postgres") -> None:
        """Become a standby of `primary`, with all that it has."""
        self._run(
            *(str(_found("pg_basebackup")), "-D", str(self.folder / "data"), "-R", "-X", "stream"),
            *("-d", f"host=127.0.0.1 port={primary.port} user={LOGIN} password={PASSWORD}"),
        )

    def promote(self) -> None:
        """Take writes from now on."""
        self._run(str(_found("pg_ctl")), "promote", "-w", "-D", str(self.folder / "data"))

    def _run(self, *command: str) -> None:
        if not os.geteuid():
            shutil.chown(self.folder, _USER, "nogroup")
        done = subprocess.run(
            (*self._as_user(), *command), capture_output=True, text=True, check=False, cwd="/"
        )
        assert done.returncode == 0, done.stderr

    async def start(self, *settings: str, ready: str = "ready to accept connections") -> None:
        options = (f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", *settings)
        self.spawn(
            *self._as_user(),
            *(str(_found("postgres")), "-D", str(self.folder / "data")),
            *(word for option in options for word in ("-c", option)),
            cwd=Path("/"),
        )
        await self.until_logged(ready, self.log.count(ready) + 1)

    async def end(self) -> int:
        """Have it end at once, clients or not, and without tidying up: its next start recovers as after a crash."""
        assert self.popen is not None
        if self.popen.poll() is None:
            self.signal(signal.SIGQUIT)
        return await self.until_ended()

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            dbname=database,
            user=LOGIN,
            password=PASSWORD,
            autocommit=True,
        )

    def create_database(self, name: str, *more: str) -> None:
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}" {" ".join(more)}')

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


async def a_postgres(*settings: str) -> Postgres:
    """Start a server, or skip the test (fail where servers are required)."""
    server = Postgres()
    try:
        server.create()
        await server.start(*settings)
    except BaseException:
        server.remove()
        raise
    return server
