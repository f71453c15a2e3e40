"""The liveness probe leads a real conversation with a listener, and names the step that hangs."""

import asyncio
import socket
from ipaddress import ip_network

import pytest
from tests.server.harness import LOOPBACK, Served, serving
from tests.servers.tls import Certificates

from relayproxy.api import Plugin, Settings, defer, hook, reject
from relayproxy.core.policy import Limits
from relayproxy.server import selftest as module
from relayproxy.server.selftest import converse
from relayproxy.testing.upstream import Fault, FaultPlan, Say, Step, UpstreamSink, answer


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


class Hangs(Plugin[Settings]):
    """Hangs in one of its hooks until it is let go."""

    def __init__(self, step: str) -> None:
        super().__init__(Settings())
        self.step = step
        self.gate = asyncio.Event()

    async def pause(self, step: str) -> None:
        if step == self.step:
            await self.gate.wait()

    @hook
    async def connect(self, client):
        await self.pause("banner")

    @hook
    async def helo(self, client, name):
        await self.pause("EHLO")

    @hook
    async def mail(self, mail):
        await self.pause("MAIL")

    @hook
    async def rcpt(self, mail, rcpt):
        await self.pause("RCPT")


@pytest.mark.parametrize("step", ["banner", "EHLO", "MAIL", "RCPT"])
async def test_a_step_that_hangs_is_named(sink: UpstreamSink, monkeypatch: pytest.MonkeyPatch, step: str):
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    plugin = Hangs(step)
    async with serving(sink, plugins=[plugin]) as served:
        assert await probe(served) == (False, f"{step}: TimeoutError")
        plugin.gate.set()


async def test_a_refusal_in_place_of_the_banner_is_an_answer_too(sink: UpstreamSink):
    """A listener at its limit of connections, or with a plugin that wants none of ours, is not dead."""

    class Refuses(Plugin[Settings]):
        @hook
        def connect(self, client):
            return reject("Not you")

    async with serving(sink, plugins=[Refuses(Settings())]) as served:
        assert await probe(served) == (True, "alive, and turned us away: 554 5.7.1 Not you")
    async with serving(sink, limits=Limits(connections=1)) as served, await served.client():
        well, text = await probe(served)
        assert well
        assert "421 4.7.0 Too many connections" in text


async def test_a_listener_for_balancers_elsewhere(sink: UpstreamSink, certificates: Certificates):
    elsewhere = (ip_network("192.0.2.0/24"),)
    async with serving(sink, proxy=elsewhere) as served:
        assert await probe(served, proxied=True) == (
            True,
            "alive, and turned us away: 421 4.7.0 PROXY header required",
        )
    tls = certificates.server_context()
    async with serving(sink, proxy=elsewhere, tls=tls, implicit=True) as served:
        assert await probe(served, proxied=True, implicit_tls=True) == (True, "alive, and turned us away")


async def test_nobody_listens():
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    well, text = await converse(sock, lmtp=False, implicit_tls=False, proxied=False)
    assert not well
    assert text.startswith("connect: ")
    sock.close()


async def ask(sink: UpstreamSink) -> tuple[bool, str]:
    assert sink.listener is not None
    return await converse(sink.listener, lmtp=False, implicit_tls=False, proxied=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "::", "::1"])
async def test_it_finds_a_socket_that_listens_everywhere(host: str):
    async with UpstreamSink(host=host) as sink:
        assert await ask(sink) == (True, "alive")
        await sink.until(lambda: sink.open_sessions == 0)


@pytest.mark.parametrize(
    ("said", "step"),
    [
        (b"220 hel", "banner"),
        (b"", "banner"),
        (b"220-hello\r\n220-more\r\n", "banner"),
        (b"220 hello\n", "banner"),
    ],
)
async def test_a_server_that_hangs_up(said: bytes, step: str):
    async with UpstreamSink(plan=FaultPlan(Fault(Step.BANNER, Say(said, close=True)))) as sink:
        assert await ask(sink) == (False, f"{step}: the connection was closed")
        await sink.until(lambda: sink.open_sessions == 0)
