"""Starting a real server for one test, waiting until it listens, and ending it. Knows no particular server."""

import asyncio
import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REQUIRED = os.environ.get("RELAYPROXY_REQUIRE_SERVERS") == "1"
PATIENCE = 60.0
"""Seconds until a wait has failed: it is there to end a test that hangs, and says nothing about how quick we are."""
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


class _Ports:
    """Ports of this process alone, below those that the kernel gives to connections, each handed out once in a round.

    A port that the kernel chose and that was closed again may be anybody's a moment later, and with several test runs
    on one machine it is. A block is ours while we hold the lock on its file.
    """

    FIRST, SIZE, BLOCKS = 10_000, 200, 110

    def __init__(self) -> None:
        self._lock = -1
        self._ports: Iterator[int] = iter(())

    def next(self, host: str) -> int:
        if self._lock == -1:
            self._ports = itertools.cycle(self._take_block())
        for port in itertools.islice(self._ports, self.SIZE):
            with contextlib.suppress(OSError), socket.create_server((host, port)):
                return port
        pytest.fail("no free port")

    def _take_block(self) -> range:
        folder = Path(tempfile.gettempdir()) / f"relayproxy-test-ports-{os.geteuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        for number in range(self.BLOCKS):
            lock = os.open(folder / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            self._lock = lock
            first = self.FIRST + number * self.SIZE
            return range(first, first + self.SIZE)
        pytest.fail("every block of ports is taken by another test run")


_PORTS = _Ports()


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody uses, and that no other test run will take."""
    return _PORTS.next(host)


def public_folder(prefix: str) -> Path:
    """A new folder with a short path that other users can enter: pytest's own is closed to them."""
    folder = Path(tempfile.mkdtemp(prefix=f"rp-{prefix}-", dir="/tmp"))
    folder.chmod(0o755)
    return folder


async def wait_for(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> None:
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

    async def until_listening(self, *ports: int, seconds: float = PATIENCE) -> None:
        """Wait until every port takes connections. Fails the test when the server ends or time is up."""
        deadline = time.monotonic() + seconds
        for port in ports:
            while not await _accepts(port):
                self.check_alive()
                if time.monotonic() > deadline:
                    pytest.fail(f"{self.name} does not listen on {port}:\n{self.log}")
                await asyncio.sleep(_POLL)

    async def until_logged(self, text: str, times: int = 1, seconds: float = PATIENCE) -> None:
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

    async def until_ended(self, seconds: float = PATIENCE) -> int:
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
