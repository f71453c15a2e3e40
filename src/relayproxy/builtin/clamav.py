"""clamav: has every message looked at by a ClamAV daemon (clamd, its command INSTREAM).

The message goes to the daemon piece by piece as it lies in memory or in its file. Must not know how a broken service
is kept from holding up the mail, nor what an admin thinks of viruses beyond the settings.
"""

import asyncio
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from relayproxy.api import (
    App,
    Clock,
    Mail,
    Message,
    Opinion,
    Plugin,
    ServiceError,
    Settings,
    discard,
    hold,
    hook,
    printable,
    reject,
)
from relayproxy.builtin._answers import Answers, Remembered
from relayproxy.builtin._remote import Breaker, Service, Where, connected, last_words, send, service_of

_ANSWER: Final = re.compile(rb"stream: (?:(OK)|(.+) FOUND)\Z", re.DOTALL)
_LIMIT = b"size limit exceeded"
_LONGEST_CHUNK = 262_144
_VERSION_HOLDS = 60.0  # seconds


def _pattern(text: str) -> str:
    if not text.strip():
        raise ValueError("a pattern is the name of a signature, with * for any rest: PUA.*")
    return text.strip()


class ClamavSettings(Settings):
    """Where the daemon is, and what follows from what it finds."""

    address: Where
    """Where clamd listens: `127.0.0.1:3310` or `unix:/run/clamav/clamd.ctl`."""
    on_find: Literal["reject", "hold", "discard", "note"] = "reject"
    """What becomes of a message with a find. `note`: nothing, beside the finding and its score."""
    score: float = 10.0
    """What a find adds to the message's score."""
    note_only: tuple[Annotated[str, AfterValidator(_pattern)], ...] = ()
    """Names of signatures that are only noted, whatever `on_find` says; `*` stands for anything: `PUA.*`."""
    max_size: int = Field(100_000_000, gt=0)
    """How many octets a message may have to be looked at. Not above clamd's own `StreamMaxLength`."""
    too_large: Literal["reject", "hold", "pass"] = "reject"
    """What becomes of a message that is larger than that, or than clamd takes."""
    remember: Remembered = 300.0
    """For how long an answer is used again for the very same message, as when a client tries again. `0s`: never."""
    breaker: Breaker = Breaker()
    """When a daemon that fails is left alone."""


class Clamav(Plugin[ClamavSettings]):
    """Have the message looked at by clamd."""

    name = "clamav"
    settings = ClamavSettings
    after = ()
    default_timeout = 30.0
    _service: Service
    _answers: Answers
    _clock: Clock
    _version: tuple[float, str] | None = None

    @hook
    def startup(self, app: App) -> None:
        """Meet the service."""
        self._service = service_of(self, self.options.breaker, app)
        self._answers = Answers("clamav", self.options.remember, app)
        self._clock = app.clock

    @hook
    async def message(self, mail: Mail) -> Opinion:
        """Ask clamd; a message that is too large for it is never let through unsaid."""
        if mail.message.size > self.options.max_size:
            return self._too_large(mail)
        answer = await self._answer(mail.message)
        if answer is None:
            return self._too_large(mail)
        if not answer:
            mail.note("clamav", "miss")
            return None
        return self._found(mail, answer)

    async def _answer(self, message: Message) -> str | None:
        """Return the name of what is found, "" for nothing, None for a message that is too large for clamd."""
        key = ""
        if self._answers.are_kept:
            key = await self._answers.key(message, [await self._signatures()])
            if (known := await self._answers.find(key)) is not None:
                return known
        answer = await self._service.ask(lambda: self._scan(message))
        if _LIMIT in answer:
            return None
        found = _ANSWER.match(answer)
        name = "" if found is None or found[1] else printable(found[2].decode("ascii", "replace"), 100)
        if key:
            await self._answers.keep(key, name)
        return name

    async def _signatures(self) -> str:
        """Return clamd's version and that of its signatures, as it said within the last minute. Raises ServiceError."""
        now = self._clock.monotonic()
        if self._version is None or now - self._version[0] > _VERSION_HOLDS:
            self._version = now, (await self._service.ask(self._ask_version)).decode("ascii", "replace")
        return self._version[1]

    async def _ask_version(self) -> bytes:
        async with connected(self.options.address) as (reader, writer):
            await send(writer, b"zVERSION\0")
            return await reader.readuntil(b"\0")

    async def _scan(self, message: Message) -> bytes:
        """Return what clamd says to the message. Raises ServiceError, OSError and EOFError."""
        async with connected(self.options.address) as (reader, writer):
            # It may answer, and hang up, before it has everything: the answer must not be lost to that.
            with last_words(writer) as said_at_last:
                reading = asyncio.ensure_future(reader.readuntil(b"\0"))
                try:
                    await _send(writer, message, reading)
                    answer = (await reading)[:-1]
                except ConnectionError:
                    answer, end, _ = said_at_last().partition(b"\0")
                    if not end:
                        raise
                finally:
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
        if _ANSWER.match(answer) or _LIMIT in answer:
            return answer
        raise ServiceError(f"said {printable(answer.decode('ascii', 'replace'), 200)!r}")

    def _found(self, mail: Mail, virus: str) -> Opinion:
        mail.note("clamav", "hit", score=self.options.score, reason=virus, virus=virus)
        if any(fnmatchcase(virus, pattern) for pattern in self.options.note_only):
            return None
        match self.options.on_find:
            case "reject":
                return reject(f"Message refused: it contains {virus}", reason=virus)
            case "hold":
                return hold(virus)
            case "discard":
                return discard(virus)
            case _:
                return None

    def _too_large(self, mail: Mail) -> Opinion:
        mail.note("clamav", "policy", reason="too large to be scanned")
        match self.options.too_large:
            case "reject":
                return reject("Message too large to be scanned for viruses", code=552, status="5.3.4")
            case "hold":
                return hold("too large to be scanned")
            case _:
                return None


async def _send(writer: asyncio.StreamWriter, message: Message, reading: "asyncio.Future[bytes]") -> None:
    """Write the message in chunks with their lengths in front, as long as there is no answer yet."""
    try:
        await send(writer, b"zINSTREAM\0")
        for chunk in _pieces(message):
            await send(writer, len(chunk).to_bytes(4, "big"), chunk)
            if reading.done():
                return
        await send(writer, b"\0\0\0\0")
    except ConnectionError:
        if not (reading.done() and reading.exception() is None):
            raise


def _pieces(message: Message) -> Iterator[bytes | memoryview]:
    """Yield the message; none of the pieces is empty, as that would say that it ends here."""
    return (chunk for chunk in message.chunks(_LONGEST_CHUNK) if len(chunk))
