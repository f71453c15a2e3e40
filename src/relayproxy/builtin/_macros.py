"""What the macros of a message's office files do, as oletools sees them: asked in a child process, within limits.

A file that its reader dies of, or that takes longer than any honest one, counts as one that does suspicious things: its
sender made it so. Must not know what follows from that.
"""

import asyncio
import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from relayproxy.api import Message, ServiceError, printable
from relayproxy.builtin._attachment_scan import Document, Problem, Sort
from relayproxy.builtin._macro_child import MISSING
from relayproxy.model.mime_content import decoded_octets

CPU_SECONDS: Final = 5
"""CPU time for one file; usual ones take 0.2 s, nearly all of it to start."""
MEMORY: Final = 536_870_912
"""Octets of address space for one file."""
_PATIENCE: Final = 4 * CPU_SECONDS  # seconds on a busy machine
_AT_ONCE: Final = 2
_MOST_FILES: Final = 4  # of one message
_REMEMBERED: Final = 256  # answers
_CHILD: Final = Path(__file__).with_name("_macro_child.py")


@dataclass(frozen=True, slots=True)
class Report:
    """What one file holds: whether there are `macros`, the words by which they start themselves, and those of harm.

    It is not `readable` where the reader died of it.
    """

    macros: bool = False
    autoexec: tuple[str, ...] = ()
    suspicious: tuple[str, ...] = ()
    readable: bool = True


def is_installed() -> bool:
    """Whether there is something to ask."""
    return find_spec("oletools") is not None


class MacroReader:
    """Asks for one file at a time, few at once; what was asked lately is known."""

    def __init__(self, seconds: int = CPU_SECONDS, memory: int = MEMORY, patience: float = _PATIENCE) -> None:
        self._limits = (str(seconds), str(memory))
        self._patience = patience
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._known: dict[bytes, Report] = {}

    async def problems(self, message: Message, documents: Iterable[Document]) -> list[Problem]:
        """Return what is wrong with the macros of a message. Raises ServiceError if that can't be told just now."""
        found: list[Problem] = []
        for count, document in enumerate(documents):
            if count < _MOST_FILES:
                data = await asyncio.to_thread(decoded_octets, message, document.part)
                found += _judged(document, await self.report(data))
            elif document.has_macros:
                found.append(document.problem("macros_suspicious", "there are too many files with macros"))
        return found

    async def report(self, data: bytes) -> Report:
        """Return what is in one file. Raises ServiceError if that can't be told just now."""
        key = (await asyncio.to_thread(sha256, data)).digest()
        if (known := self._known.get(key)) is not None:
            return known
        async with self._turn:
            report = await self._asked(data)
        if len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[key] = report
        return report

    async def _asked(self, data: bytes) -> Report:
        pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        command = (sys.executable, "-I", "-B", str(_CHILD), *self._limits)
        try:
            child = await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, stderr=nothing, env={"LANG": "C.UTF-8"}
            )
        except OSError as error:
            raise ServiceError(f"the reader of macros can't be started: {error}") from error
        try:
            async with asyncio.timeout(self._patience):
                answer, _ = await child.communicate(data)
        except TimeoutError:
            raise ServiceError(f"the reader of macros took longer than {self._patience:g} s") from None
        finally:
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        if child.returncode == MISSING:
            raise ServiceError("oletools is not installed: pip install 'relayproxy[macros]'")
        if child.returncode:
            return Report(readable=False)
        return _read(answer)


def _read(answer: bytes) -> Report:
    said = json.loads(answer)
    autoexec, suspicious = (
        tuple(printable(word, 40) for word in said[key]) for key in ("autoexec", "suspicious")
    )
    return Report(bool(said["macros"]), autoexec, suspicious)


def _judged(document: Document, report: Report) -> Iterable[Problem]:
    """Yield the problems that a report means."""
    if not report.readable:
        sort: Sort = "macros_suspicious" if document.has_macros else "unreadable"
        yield document.problem(sort, "what its macros do can't be told")
    if report.macros and not document.has_macros:
        yield document.problem("macros", "it holds macros")
    if report.autoexec:
        yield document.problem(
            "macros_autoexec", f"its macros start by themselves: {', '.join(report.autoexec)}"
        )
    if report.suspicious:
        yield document.problem(
            "macros_suspicious", f"its macros do harmful things: {', '.join(report.suspicious)}"
        )
