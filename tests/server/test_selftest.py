"""The liveness probe leads a real conversation with a listener, and names the step that hangs."""

import asyncio
import socket

import pytest
from tests.server.harness import LOOPBACK, Served, serving
from tests.servers.tls import Certificates

from relayproxy.api import Plugin, Settings, defer, hook, reject
from relayproxy.server import selftest as module
from relayproxy.server.selftest import converse
from relayproxy.testing.upstream import UpstreamSink, answer


async def probe(served: Served, **how: bool) -> tuple[bool, str]:
    ways = {"lmtp": False, "implicit_tls": False, "proxied": False} | how
    return await converse(served.listener._sock, **ways)


async def test_alive(sink: UpstreamSink):
    async with serving(sink) as served:
        assert await probe(served) == (True, "alive")
        assert served.counted("commands_total", "main", "RCPT", "2xx") == 1
        assert served.counted("commands_total", "main", "QUIT", "2xx") == 1
    assert sink.arrived == []


async def test_alive_over_lmtp_a_unix_socket_tls_and_proxy(
    sink: UpstreamSink, short_folder, certificates: Certificates
):
    context = certificates.server_context()
    async with serving(sink, protocol="lmtp") as served:
        assert await probe(served, lmtp=True) == (True, "alive")
    async with serving(sink, path=str(short_folder / "s.sock")) as served:
        assert await probe(served) == (True, "alive")
    async with serving(sink, tls=context, implicit=True) as served:
        assert await probe(served, implicit_tls=True) == (True, "alive")
    async with serving(sink, tls=context, implicit=True, path=str(short_folder / "t.sock")) as served:
        assert await probe(served, implicit_tls=True) == (True, "alive")
    async with serving(sink, proxy=LOOPBACK) as served:
        assert await probe(served, proxied=True) == (True, "alive")
    async with serving(sink, proxy=LOOPBACK, tls=context, implicit=True) as served:
        assert await probe(served, proxied=True, implicit_tls=True) == (True, "alive")


async def test_a_refusal_is_an_answer(sink: UpstreamSink):
    """Whether mail is welcome is another question than whether anybody is at home."""
    sink.refusals = {"postmaster": answer(550, "5.1.1 no").data}
    async with serving(sink, auth_required=True) as served:
        assert await probe(served) == (True, "alive")

    class Refuses(Plugin[Settings]):
        @hook
        def mail(self, mail):
            return defer("Not now")

    async with serving(sink, plugins=[Refuses(Settings())]) as served:
        assert await probe(served) == (True, "alive")


async def test_an_upstream_that_is_down_is_no_matter_of_life(sink: UpstreamSink):
    async with serving(sink) as served:
        await sink.close()
        assert await probe(served) == (True, "alive")


@pytest.mark.parametrize("step", ["connect", "helo", "mail", "rcpt"])
async def test_a_step_that_hangs_is_named(sink: UpstreamSink, monkeypatch: pytest.MonkeyPatch, step: str):
    monkeypatch.setattr(module, "_PATIENCE", 0.2)

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    class Hangs(Plugin[Settings]):
        pass

    def hanging(name: str):
        match name:
            case "connect":

                async def connect(self, client):
                    await hang()

                return hook(connect)
            case "helo":

                async def helo(self, client, name):
                    await hang()

                return hook(helo)
            case "mail":

                async def mail(self, mail):
                    await hang()

                return hook(mail)
            case _:

                async def rcpt(self, mail, rcpt):
                    await hang()

                return hook(rcpt)

    setattr(Hangs, step, hanging(step))
    async with serving(sink, plugins=[Hangs(Settings())]) as served:
        well, text = await probe(served)
        assert not well
        named = {"connect": "banner", "helo": "EHLO", "mail": "MAIL", "rcpt": "RCPT"}[step]
        assert text.startswith(f"{named}: ")


async def test_a_refusal_in_place_of_the_banner_ends_it(sink: UpstreamSink):
    class Refuses(Plugin[Settings]):
        @hook
        def connect(self, client):
            return reject("Not you")

    async with serving(sink, plugins=[Refuses(Settings())]) as served:
        well, text = await probe(served)
        assert not well
        assert text.startswith("EHLO: ")


async def test_nobody_listens():
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    well, text = await converse(sock, lmtp=False, implicit_tls=False, proxied=False)
    assert not well
    assert text.startswith("connect: ")
    sock.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "::", "::1"])
async def test_it_finds_a_socket_that_listens_everywhere(host: str):
    banner = asyncio.start_server(_say_yes, host, 0)
    server = await banner
    assert (await converse(server.sockets[0], lmtp=False, implicit_tls=False, proxied=False))[0]
    server.close()
    await server.wait_closed()


async def _say_yes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 hello\r\n")
    while line := await reader.readline():
        writer.write(b"250-more\r\n250 ok\r\n" if line.startswith(b"EHLO") else b"250 ok\r\n")
    writer.close()


async def test_a_server_that_hangs_up_in_the_middle_of_a_line():
    async def short(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hel")
        writer.close()

    server = await asyncio.start_server(short, "127.0.0.1", 0)
    well, text = await converse(server.sockets[0], lmtp=False, implicit_tls=False, proxied=False)
    assert (well, text) == (False, "banner: the connection was closed")
    server.close()
    await server.wait_closed()
