"""exec: asks programs in any language about a mail; JSON in, JSON out.

A program is started for each question, in a process group of its own that does not outlive it, with what it writes
bounded. Never a shell. Must not know what the JSON says.
"""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import Process, SubprocessStreamProtocol
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from pydantic import Field, field_validator

from relayproxy.api import App, Mail, Message, Mistake, Recipient, ServiceError, Setup, hook, printable
from relayproxy.builtin import _script
from relayproxy.builtin._asking import Asking, Script, ScriptsSettings, whole
from relayproxy.builtin._remote import send

_LONGEST_OUTPUT: Final = 32 * 1024 * 1024
_BUFFER: Final = 65_536
_LONGEST_COMPLAINT: Final = 65_536
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Program(Script):
    """One program."""

    command: tuple[str, ...] = Field(min_length=1, max_length=100)
    """The program and its arguments: an absolute path, or one that starts at the folder of the configuration file. No
    shell reads it."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables that it finds, beside PATH and LANG. It gets none of relayproxy's own."""
    parallel: int = Field(8, ge=1, le=1000)
    """How many of it may run at once, in each worker."""

    @field_validator("command")
    @classmethod
    def _is_a_path(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        if any("\0" in word for word in command):
            raise ValueError("a command holds no NUL")
        if "/" not in command[0]:
            raise ValueError(
                "write the path of the program: /usr/local/bin/check, or ./check beside this file"
            )
        return command


class ExecSettings(ScriptsSettings):
    """Which programs there are."""

    scripts: tuple[Program, ...] = Field(min_length=1, max_length=16)
    """The programs, in the order in which they are asked."""


class Exec(Asking[ExecSettings, Program]):
    """Ask programs about mail."""

    name = "exec"
    settings = ExecSettings
    default_timeout = 10.0
    _folder: Path
    _room: dict[str, asyncio.Semaphore]

    def check(self, setup: Setup) -> Iterable[Mistake]:
        """Find programs that aren't there."""
        for place, script in enumerate(self.options.scripts):
            path = setup.folder / script.command[0]
            if not path.is_file():
                yield Mistake(f"there is no program {path}", ("scripts", place, "command"))
            elif not os.access(path, os.X_OK):
                yield Mistake(f"{path} can't be executed", ("scripts", place, "command"), f"chmod +x {path}")

    @hook
    def startup(self, app: App) -> None:
        """Remember where paths start."""
        self._folder = app.folder.absolute()
        self._room = {one.name: asyncio.Semaphore(one.parallel) for one in self.options.scripts}
        self.begin(app)

    def scripts(self) -> Sequence[Program]:
        """Return the programs."""
        return self.options.scripts

    async def reach(self, script: Program, mail: Mail, recipient: Recipient | None) -> bytes:
        """Run a program: on its standard input one line of JSON, then the message; its answer is on standard output."""
        line = _script.written(_script.facts(mail, script.at, recipient)) + b"\n"
        message = mail.message if whole(script, mail) else None
        async with self._room[script.name]:
            return await self._run(script, line, message)

    async def _run(self, script: Program, line: bytes, message: Message | None) -> bytes:
        # As asyncio.create_subprocess_exec, but with the transport at hand: closing it closes the pipes, also when
        # something that left the process group still holds their other ends.
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            lambda: SubprocessStreamProtocol(_BUFFER, loop),
            str(self._folder / script.command[0]),
            *script.command[1:],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self._folder,
            env={"PATH": _PATH, "LANG": "C.UTF-8", **script.environment},
            start_new_session=True,
        )
        process = Process(transport, protocol, loop)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        feeding = asyncio.create_task(_fed(process.stdin, line, message))
        reading = asyncio.create_task(_output(process.stdout))
        listening = asyncio.create_task(_complaint(process.stderr))
        try:
            _, output, complaint = await asyncio.gather(feeding, reading, listening)
            status = await process.wait()
        finally:
            # What it has started must not outlive it either, however it came to its end.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            for task in (feeding, reading, listening):
                task.cancel()
            await asyncio.gather(feeding, reading, listening, return_exceptions=True)
            transport.close()
            await process.wait()
        if status:
            ended = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
            raise ServiceError(f"{ended}{complaint and ': '}{complaint}")
        return output


async def _fed(stdin: asyncio.StreamWriter, line: bytes, message: Message | None) -> None:
    """Write what the program is told; one that doesn't want to know all may close the door."""
    try:
        await send(stdin, line)
        for chunk in message.chunks() if message is not None else ():
            await send(stdin, chunk)
    except (BrokenPipeError, ConnectionResetError):
        return
    finally:
        stdin.close()


async def _output(stdout: asyncio.StreamReader) -> bytes:
    output = bytearray()
    while chunk := await stdout.read(65_536):
        output += chunk
        if len(output) > _LONGEST_OUTPUT:
            raise ServiceError("wrote more than an answer can have")
    return bytes(output)


async def _complaint(stderr: asyncio.StreamReader) -> str:
    """Return the last line of what the program complained about."""
    kept = b""
    while chunk := await stderr.read(65_536):
        kept = (kept + chunk)[-_LONGEST_COMPLAINT:]
    lines = kept.decode("utf-8", "replace").strip().splitlines()
    return printable(lines[-1], 200) if lines else ""
