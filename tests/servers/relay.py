"""relayproxy itself as a process, driven through its outer contract only: command line, YAML, signals, log."""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.servers.process import PATIENCE, Process, free_port, public_folder

LISTENER = "main"


def configuration(port: int, upstream: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """A small configuration as data: one listener, one upstream called `sink`, loopback clients trusted.

    `changes` replace top-level keys.
    """
    return {
        "version": 1,
        "hostname": "relay.test",
        "listeners": [{"name": LISTENER, "listen": f"127.0.0.1:{port}"}],
        "relay": {"networks": ["127.0.0.1/32"]},
        "upstreams": {"sink": {"address": upstream}},
        "metrics": {"listen": "off"},
        "control": {"socket": str(folder / "control.sock")},
        **changes,
    }


def as_yaml(config: dict[str, Any]) -> str:
    """JSON is YAML, and needs no writer of our own."""
    return json.dumps(config, indent=1) + "\n"


class Relay(Process):
    """One relayproxy. `port` is its first listener's."""

    def __init__(self, folder: Path) -> None:
        super().__init__("relayproxy", folder / "relayproxy.log")
        self.folder = folder
        self.port = free_port()
        self.config_file = folder / "relayproxy.yaml"
        self._tracebacks_expected = False

    def configure(self, upstream: str, **changes: Any) -> None:
        """Write the small configuration with `changes`."""
        self.write(as_yaml(configuration(self.port, upstream, self.folder, **changes)))

    def write(self, text: str) -> None:
        """Write the configuration file."""
        self.config_file.write_text(text)

    def write_secret(self, name: str, text: str) -> Path:
        """Write a file that only its owner can read."""
        file = self.folder / name
        file.touch(mode=0o600)
        file.write_text(text)
        return file

    def command(self, *arguments: str) -> tuple[str, ...]:
        """The command line of the installed program."""
        return (str(Path(sys.executable).with_name("relayproxy")), *arguments)

    async def output(self, *arguments: str) -> tuple[int, str]:
        """Run another command to its end; return its exit status and what it printed."""
        process = await asyncio.create_subprocess_exec(
            *self.command(*arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self.folder,
        )
        output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode is not None
        return process.returncode, output.decode()

    async def start(self, *ports: int, env: dict[str, str] | None = None) -> None:
        """Run with the configuration file and wait until it says that it is ready and `ports` listen."""
        await self.start_with("run", "-C", str(self.config_file), ports=ports, env=env)

    async def start_with(
        self, *arguments: str, ports: tuple[int, ...] = (), env: dict[str, str] | None = None
    ) -> None:
        """Run with these arguments and wait until it is ready and `ports` (default: its own) listen."""
        env = {"RUNTIME_DIRECTORY": str(self.folder), **(env or {})}
        self.spawn(*self.command(*arguments), env=env, cwd=self.folder)
        await self.until_logged("ready")
        await self.until_listening(*(ports or (self.port,)))

    def expect_tracebacks(self) -> None:
        """The log has tracebacks, of plugins that the test made fail."""
        self._tracebacks_expected = True

    def reload(self) -> None:
        self.signal(signal.SIGHUP)

    def workers(self) -> list[int]:
        """The process ids of the workers: children that hold a listening socket; itself when it has none."""
        assert self.popen is not None
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in children] or [self.pid]

    def memory(self) -> int:
        """Private octets of the process and its children."""
        total = 0
        for pid in {self.pid, *self.workers()}:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Private_"):
                    total += int(line.split()[1]) * 1024
        return total

    async def finish(self) -> None:
        """End it by SIGTERM; fail the test for a bad exit status, a traceback in the log, or a left-over."""
        if self.popen is None:
            return
        children = [pid for pid in self.workers() if pid != self.pid] if self.popen.poll() is None else []
        status = await self.end()
        if not self._tracebacks_expected:
            assert "Traceback (most recent call last)" not in self.log, self.log
        if status != 0:
            pytest.fail(f"relayproxy ended with status {status}:\n{self.log}")
        assert not [pid for pid in children if _runs(pid)], "a worker was left behind"

    @property
    def events(self) -> list[dict[str, Any]]:
        """The log's lines that are JSON, as data."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]


@asynccontextmanager
async def a_relay() -> AsyncIterator[Relay]:
    """A relayproxy with a folder of its own, not started yet; at the end it is ended and its log looked at."""
    folder = public_folder("relay")
    relay = Relay(folder)
    try:
        yield relay
        await relay.finish()
    finally:
        if relay.popen is not None and relay.popen.poll() is None:
            os.killpg(relay.popen.pid, signal.SIGKILL)
            relay.popen.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
