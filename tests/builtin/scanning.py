"""What the tests of the scanners share: an app for a plugin, a message, and a server that says what it is told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from relayproxy.api import App, Finding, Message, Origin, Plugin, Verdict
from relayproxy.model.edits import apply_to_message
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.mail import call, make_mail
from relayproxy.testing.resolver import FakeResolver

RAW = b"From: <a@example.org>\r\nMessage-ID: <1@example.org>\r\nSubject: x\r\n\r\nhello\r\n"
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
"""The test file of EICAR, in two pieces so that no scanner finds it in our source."""
INFECTED = RAW.replace(b"hello", EICAR)


def an_app(**changes: Any) -> App:
    """Return an app of fakes; `changes` are fields of it."""
    values = {
        "hostname": "mx.example.com",
        "resolver": FakeResolver(),
        "clock": FakeClock(),
        "folder": Path(),
    }
    return App(**{**values, **changes})


def started(cls: type[Plugin[Any]], *, timeout: float = 5.0, app: App | None = None, **options: Any) -> Any:
    """Return a plugin that has had its startup."""
    plugin = cls(cls.settings.model_validate(options))
    plugin.timeout = timeout
    plugin.startup(app or an_app())
    return plugin


async def asked(
    plugin: Plugin[Any], raw: bytes = RAW, **facts: Any
) -> tuple[Verdict | None, Finding | None, Message]:
    """Return the verdict, the finding and the message as it would be forwarded."""
    mail = make_mail(raw, **facts)
    verdict = await call(plugin, "message", mail=mail)
    edits = await call(plugin, "before_forward", mail=mail, route="default")
    return verdict, mail.finding(plugin.name), apply_to_message(mail.message, edits)


async def released(plugin: Plugin[Any], raw: bytes = RAW, **facts: Any) -> Message:
    """Return a held message as it leaves when a human lets it go: only `before_forward` is called, in another process."""
    mail = make_mail(raw, **facts)
    mail.origin = Origin.RELEASE
    return apply_to_message(mail.message, await call(plugin, "before_forward", mail=mail, route="default"))


@asynccontextmanager
async def scripted(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """Serve connections with `talk` on a free port; gives the address."""

    talks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has left
        finally:
            writer.close()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.ensure_future(serve(reader, writer)))

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
        if talks:
            await asyncio.wait(talks, timeout=0.5)
    for task in talks:
        task.cancel()
    ends = await asyncio.gather(*talks, return_exceptions=True)
    for fault in ends:
        if isinstance(fault, Exception):
            raise fault


def http_saying(
    body: bytes, status: str = "200 OK", seen: list[tuple[bytes, bytes]] | None = None
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Return a talk that takes one HTTP request, notes its head and body in `seen`, and answers."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        (length,) = [
            int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        ]
        content = await reader.readexactly(length)
        if seen is not None:
            seen.append((head, content))
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status.encode(), len(body)) + body)
        await writer.drain()

    return talk
