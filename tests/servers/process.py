"""Starting a real server for one test, waiting until it listens, and ending it. Knows no particular server."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REQUIRED = os.environ.get("RELAYPROXY_REQUIRE_SERVERS") == "1"
_POLL = 0.02


def need(*programs: str, root: bool = True) -> None:
    """Skip the test when a program is missing or we are not root; fail instead where servers are required."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [name for name in programs if not shutil.which(name, path=path)]
    reason = f"{', '.join(missing)} not installed" if missing else ""
    if root and os.geteuid() != 0:
        reason = reason or f"{programs[0]} needs root to run under its own users"
    if reason:
        do_without(reason)


def do_without(reason: str) -> None:
    """Skip the test, or fail it where servers are required."""
    (pytest.fail if REQUIRED else pytest.skip)(reason)


def program(name: str) -> str:
    """The path of an installed program, also where sbin is not on the PATH."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    assert found, name
    return found


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago."""
    with socket.create_server((host, 0)) as server:
        return server.getsockname()[1]


def public_folder(prefix: str) -> Path:
    """A new folder with a short path that other users can enter: pytest's own is closed to them."""
    folder = Path(tempfile.mkdtemp(prefix=f"rp-{prefix}-", dir="/tmp"))
    folder.chmod(0o755)
    return folder


async def wait_for(condition: Callable[[], Any], what: str, seconds: float = 15.0) -> None:
    """Wait until `condition()` is true; fail the test when it does not become so in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s in vain for {what}")
        await asyncio.sleep(_POLL)


class Process:
    """A server in the foreground, its output in a log file."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log_file = log
        self.popen: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What the server has written so far."""
        return self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""

    @property
    def pid(self) -> int:
        assert self.popen is not None
        return self.popen.pid

    def spawn(self, *command: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
        with self.log_file.open("ab") as out:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )

    def check_alive(self) -> None:
        assert self.popen is not None
        if self.popen.poll() is not None:
            pytest.fail(f"{self.name} ended with status {self.popen.returncode}:\n{self.log}")

    async def until_listening(self, *ports: int, seconds: float = 20.0) -> None:
        """Wait until every port takes connections. Fails the test when the server ends or time is up."""
        deadline = time.monotonic() + seconds
        for port in ports:
            while not await _accepts(port):
                self.check_alive()
                if time.monotonic() > deadline:
                    pytest.fail(f"{self.name} does not listen on {port}:\n{self.log}")
                await asyncio.sleep(_POLL)

    async def until_logged(self, text: str, times: int = 1, seconds: float = 20.0) -> None:
        """Wait until `text` stands in the log as often as `times`."""
        deadline = time.monotonic() + seconds
        while self.log.count(text) < times:
            self.check_alive()
            if time.monotonic() > deadline:
                pytest.fail(f"{self.name} did not log {text!r} {times} times:\n{self.log}")
            await asyncio.sleep(_POLL)

    def signal(self, number: int) -> None:
        assert self.popen is not None
        self.popen.send_signal(number)

    def signal_group(self, number: int) -> None:
        """Send a signal to the server and all its children."""
        os.killpg(self.pid, number)

    async def kill(self) -> None:
        """End it and its children at once."""
        self.signal_group(signal.SIGKILL)
        await self.until_ended()

    async def until_ended(self, seconds: float = 20.0) -> int:
        """Wait for the end and return the exit status; kill the process group and fail when time is up."""
        assert self.popen is not None
        deadline = time.monotonic() + seconds
        while self.popen.poll() is None:
            if time.monotonic() > deadline:
                os.killpg(self.popen.pid, signal.SIGKILL)
                self.popen.wait()
                pytest.fail(f"{self.name} did not end within {seconds} s:\n{self.log}")
            await asyncio.sleep(_POLL)
        return self.popen.returncode

    async def end(self) -> int:
        """Ask it to end, wait, return the exit status."""
        assert self.popen is not None
        if self.popen.poll() is None:
            self.signal(signal.SIGTERM)
        return await self.until_ended()


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
