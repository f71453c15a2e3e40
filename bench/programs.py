"""Start programs, wait until they answer, and end them and whatever they started.

Every program gets a session of its own, so Ctrl-C reaches only the bench, which then ends them in order.
"""

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import tree

ROOT = Path(__file__).resolve().parent.parent
_PR_SET_CHILD_SUBREAPER = 36
_given: set[int] = set()


class BenchError(Exception):
    """A program did not start, or the run can't go on; the text is for the person at the terminal."""


def adopt_orphans() -> None:
    """Become the parent of what a program leaves behind, so that it can be waited for (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def free_port() -> int:
    """A loopback port that the kernel gave as free, and that nobody else in this run was given."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


def first_line(*argv: str) -> str:
    """The first line that a program prints, such as its version."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    return (done.stdout or done.stderr).strip().partition("\n")[0]


def find(program: str) -> str:
    """Where a program is, also in the folders for administrators, or ""."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin") or ""


class Program:
    """A running program. `log` gets its output; `pid` is the root of its process tree."""

    def __init__(
        self, argv: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None, **popen: Any
    ) -> None:
        self.log = log
        with log.open("ab") as out:
            popen.setdefault("stdin", subprocess.DEVNULL)
            popen.setdefault("stdout", out)
            self.process = subprocess.Popen(
                [str(word) for word in argv],
                stderr=out,
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                **popen,
            )
        self.pid = self.process.pid

    def tail(self) -> str:
        """The last lines of the log, for an error message."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])

    def wait_for_banner(self, port: int) -> None:
        """Return once an SMTP server greets on `port`. Raises BenchError when it ends or time runs out."""
        self.wait_for(lambda: _greets(port), "greet on its port")

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
        """Return once `condition()` is true. Raises BenchError when the program ends or time runs out."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise BenchError(
                    f"{self.process.args[0]} ended at once ({self.process.returncode}):\n{self.tail()}"
                )
            if condition():
                return
            time.sleep(0.05)
        raise BenchError(f"{self.process.args[0]} did not {what} in {seconds:.0f} s:\n{self.tail()}")

    def end(self, patience: float = 5.0) -> None:
        """SIGTERM, then SIGKILL for everything that is left of the tree."""
        below = [
            (pid, tree.started(pid))
            for pid in {*tree.members(self.pid), *tree.in_session(self.pid)} - {self.pid}
        ]
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pid, started in below:
            if started is not None and tree.started(pid) == started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _greets(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as client:
            if not client.recv(512).startswith(b"220"):
                return False
            client.sendall(b"QUIT\r\n")
            client.recv(512)
            return True
    except OSError:
        return False


def listens(port: int, address: str = "127.0.0.1") -> bool:
    """Whether a server takes connections."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0


class Helper(Program):
    """A module of the bench that runs as a process and talks JSON, one value a line, over its pipes."""

    def __init__(self, module: str, log: Path) -> None:
        super().__init__(
            [sys.executable, "-m", module], log, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._buffer = b""
        assert self.process.stdout is not None
        self._ready = selectors.DefaultSelector()
        self._ready.register(self.process.stdout, selectors.EVENT_READ)

    def say(self, value: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(value).encode() + b"\n")

    def hear(self, seconds: float = 30.0) -> Any:
        """The next value the helper says. Raises BenchError when it ended or says nothing for `seconds`."""
        until = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            if not self._ready.select(max(0.0, until - time.monotonic())):
                raise BenchError(f"{self.process.args[-1]} said nothing for {seconds:.0f} s:\n{self.tail()}")
            chunk = os.read(self.process.stdout.fileno(), 1 << 20)
            if not chunk:
                raise BenchError(f"{self.process.args[-1]} ended:\n{self.tail()}")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def ask(self, value: Any, seconds: float = 30.0) -> Any:
        self.say(value)
        return self.hear(seconds)
