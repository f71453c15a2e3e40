"""An SMTP client for tests that says what it is told to, octet for octet, and shows the replies as they are."""

import asyncio
import re
import ssl
from pathlib import Path
from typing import NamedTuple, Self

from tests.servers.process import PATIENCE


class Answer(NamedTuple):
    """A reply: its code and its lines without code."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def enhanced(self) -> str:
        """The enhanced status code of the last line, or ""."""
        match = re.match(r"([245]\.\d{1,3}\.\d{1,3})( |$)", self.lines[-1])
        return match[1] if match else ""

    @property
    def kind(self) -> int:
        """2, 3, 4 or 5."""
        return self.code // 100


class HangUpError(Exception):
    """The server closed the connection where a reply was due."""


class _Wire(asyncio.Protocol):
    """What came, and whether more can come."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.news = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()
        self.gone = False

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self.news.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self.news.set()
        self.writable.set()

    async def line(self) -> bytes:
        while (end := self.buffer.find(b"\n")) < 0:
            if self.gone:
                raise HangUpError(bytes(self.buffer))
            self.news.clear()
            await self.news.wait()
        line = bytes(self.buffer[: end + 1])
        del self.buffer[: end + 1]
        return line


class Client:
    """One connection. `Client.open` connects and reads the banner."""

    def __init__(self, transport: asyncio.Transport, wire: _Wire) -> None:
        self.transport = transport
        self._wire = wire
        self.banner = Answer(0, ("",))
        self.extensions: dict[str, str] = {}

    @classmethod
    async def open(
        cls,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        source: str = "127.0.0.1",
        path: Path | None = None,
        helo: str = "client.example.org",
        tls: ssl.SSLContext | None = None,
    ) -> Self:
        """Connect, read the banner, say EHLO unless `helo` is ""."""
        loop = asyncio.get_running_loop()
        if path:
            transport, wire = await loop.create_unix_connection(_Wire, str(path))
        else:
            transport, wire = await loop.create_connection(_Wire, host, port, local_addr=(source, 0), ssl=tls)
        client = cls(transport, wire)
        try:
            client.banner = await client.read()
            if helo and client.banner.code == 220:
                await client.ehlo(helo)
        except BaseException:
            client.abort()
            raise
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def ehlo(self, name: str = "client.example.org", verb: str = "EHLO") -> Answer:
        answer = await self.say(f"{verb} {name}")
        self.extensions = {
            line.partition(" ")[0].upper(): line.partition(" ")[2] for line in answer.lines[1:]
        }
        return answer

    async def read(self, seconds: float = PATIENCE) -> Answer:
        """Read one reply. Raises HangUpError at the end of the connection, TimeoutError."""
        lines: list[str] = []
        async with asyncio.timeout(seconds):
            while True:
                raw = await self._wire.line()
                match = re.fullmatch(rb"([2-5]\d\d)(?:([ -])([\x20-\x7e\t]*))?\r\n", raw)
                assert match, f"not a reply: {raw!r}"
                lines.append((match[3] or b"").decode())
                if match[2] != b"-":
                    return Answer(int(match[1]), tuple(lines))

    async def say(self, line: str | bytes) -> Answer:
        """Send one command and read its reply."""
        await self.send((line.encode() if isinstance(line, str) else line) + b"\r\n")
        return await self.read()

    async def send(self, data: bytes) -> None:
        """Send octets as they are."""
        self.transport.write(data)
        await self._wire.writable.wait()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """STARTTLS and EHLO."""
        answer = await self.say("STARTTLS")
        assert answer.code == 220, answer
        transport = await asyncio.get_running_loop().start_tls(
            self.transport, self._wire, context, server_hostname="localhost"
        )
        assert transport is not None
        self.transport = transport
        await self.ehlo()

    async def envelope(
        self,
        sender: str = "a@example.org",
        recipients: tuple[str, ...] = ("b@example.net",),
        options: str = "",
    ) -> list[Answer]:
        """MAIL and RCPTs one by one; return their replies."""
        answers = [await self.say(f"MAIL FROM:<{sender}>{options and ' ' + options}")]
        answers += [await self.say(f"RCPT TO:<{recipient}>") for recipient in recipients]
        return answers

    async def data(self, content: bytes) -> Answer:
        """DATA with `content`, dots stuffed; return the final reply, or that to DATA if it is no 354."""
        answer = await self.say("DATA")
        if answer.code != 354:
            return answer
        await self.send(wire_form(content))
        return await self.read()

    async def message(
        self,
        content: bytes,
        sender: str = "a@example.org",
        recipients: tuple[str, ...] = ("b@example.net",),
        options: str = "",
    ) -> Answer:
        """A whole transaction; return the first refusal, or the final reply. After a refusal it says RSET."""
        for answer in await self.envelope(sender, recipients, options):
            if answer.kind != 2:
                await self.say("RSET")
                return answer
        return await self.data(content)

    async def pipelined(self, *commands: str | bytes) -> list[Answer]:
        """Send commands in one write and read as many replies."""
        lines = [command.encode() if isinstance(command, str) else command for command in commands]
        await self.send(b"".join(line + b"\r\n" for line in lines))
        return [await self.read() for _ in commands]

    def abort(self) -> None:
        """Drop the connection without a word."""
        self.transport.abort()

    async def close(self) -> None:
        """Close the connection; drop it when the other side does not let go."""
        self.transport.close()
        try:
            async with asyncio.timeout(5):
                while not self._wire.gone:
                    self._wire.news.clear()
                    await self._wire.news.wait()
        except TimeoutError:
            self.abort()


def wire_form(content: bytes) -> bytes:
    """`content` as it follows DATA: dots stuffed, the end marked (RFC 5321 section 4.5.2)."""
    stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
    return stuffed + (b".\r\n" if content.endswith(b"\r\n") or not content else b"\r\n.\r\n")
