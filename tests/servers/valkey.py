"""A Valkey or Redis of the test's own: loopback, a free port, nothing written to disk."""

import shutil
import tempfile
from pathlib import Path

from tests.servers.process import Process, do_without, free_port, need, program

PASSWORD = "a-test-password"


class Valkey(Process):
    """The server, as `url`; it ends with `end`, and `start` brings it back on the same port."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rp-valkey-", dir="/tmp"))
        super().__init__("valkey", self.folder / "log")
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self, *more: str) -> None:
        name = "valkey-server" if shutil.which("valkey-server") else "redis-server"
        need(name, root=False)
        self.spawn(
            program(name),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
            *("--dir", str(self.folder), *more),
        )
        await self.until_listening(self.port)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


async def a_valkey(*more: str) -> Valkey:
    """Start a server, or skip the test (fail where servers are required)."""
    try:
        __import__("redis")
    except ImportError:
        do_without("the redis package is not installed")
    server = Valkey()
    await server.start(*more)
    return server
