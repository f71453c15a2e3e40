"""The PROXY protocol in front of a listener: v1, v2, LOCAL, garbage, silence, strangers, and TLS behind it."""

import asyncio
import socket
import struct
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from tests.server.harness import LOOPBACK, MESSAGE, Served, Witness, received, serving
from tests.servers.client import Client, HangUpError
from tests.servers.client import _Wire as Words
from tests.servers.process import wait_for
from tests.servers.tls import Certificates

from relayproxy.core.policy import Limits
from relayproxy.server import proxy as module
from relayproxy.testing.upstream import UpstreamSink

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
TCP4, TCP6, UDP4, UNIX, UNSPEC = 0x11, 0x21, 0x12, 0x31, 0x00


def v2(command: int, kind: int, payload: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, kind, len(payload)) + payload


def addresses(source: str, target: str, ports: tuple[int, int] = (40000, 25)) -> bytes:
    return ip_address(source).packed + ip_address(target).packed + struct.pack("!HH", *ports)


async def proxied(served: Served, header: bytes, **arguments: Any) -> Client:
    """Connect, send a header, and read what comes."""
    sock = socket.socket()
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(sock, ("127.0.0.1", served.port))
        await loop.sock_sendall(sock, header)
        transport, wire = await loop.create_connection(Words, sock=sock, **arguments)
    except OSError:
        sock.close()
        raise
    client = Client(transport, wire)
    client.banner = await client.read()
    return client


GOOD = {
    b"PROXY TCP4 198.51.100.7 203.0.113.1 40000 25\r\n": ("198.51.100.7", 40000, "203.0.113.1", 25),
    b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 25\r\n": ("2001:db8::7", 40000, "2001:db8::1", 25),
    b"PROXY TCP6 ::ffff:198.51.100.7 ::ffff:203.0.113.1 1 25\r\n": ("198.51.100.7", 1, "203.0.113.1", 25),
    b"PROXY UNKNOWN\r\n": None,
    b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n": None,
    v2(PROXY, TCP4, addresses("198.51.100.7", "203.0.113.1")): ("198.51.100.7", 40000, "203.0.113.1", 25),
    v2(PROXY, TCP6, addresses("2001:db8::7", "2001:db8::1")): ("2001:db8::7", 40000, "2001:db8::1", 25),
    v2(PROXY, TCP4, addresses("198.51.100.7", "203.0.113.1") + b"\x04\x00\x02ab"): (
        "198.51.100.7",
        40000,
        "203.0.113.1",
        25,
    ),
    v2(PROXY, UNIX, b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")): None,
    v2(LOCAL, UNSPEC, b""): None,
    v2(LOCAL, UNSPEC, b"\x04\x00\x02ab"): None,
    v2(LOCAL, TCP4, addresses("198.51.100.7", "203.0.113.1")): None,
    v2(PROXY, UNSPEC, b""): None,
}


@pytest.mark.parametrize("header", GOOD, ids=lambda header: repr(header[:24]))
async def test_who_the_client_is(sink: UpstreamSink, header: bytes):
    """LOCAL is the balancer's own health check: whatever addresses it brings are to be ignored (section 2.2)."""
    witness = Witness()
    async with serving(sink, proxy=LOOPBACK, plugins=[witness]) as served:
        client = await proxied(served, header)
        assert client.banner.code == 220
        await client.ehlo()
        await client.say("MAIL FROM:<a@example.org>")
        (caller,) = witness.callers
        ours = (caller.ip, caller.port, caller.local_ip, caller.local_port)
        assert ours == (GOOD[header] or (caller.peer, caller.port, "127.0.0.1", served.port))
        assert caller.peer == "127.0.0.1"
        assert caller.trusted is (GOOD[header] is None)
        client.abort()


async def test_not_an_octet_more_is_taken(sink: UpstreamSink):
    """Commands in one piece with the header are an early talker's, not lost."""
    async with serving(sink, proxy=LOOPBACK) as served:
        client = await proxied(served, b"PROXY UNKNOWN\r\n")
        await client.ehlo()
        assert (await client.message(MESSAGE)).code == 250
        client.abort()
        client = await proxied(served, b"PROXY UNKNOWN\r\nEHLO c.example\r\n")
        assert client.banner.code in (220, 554)
        assert (await client.read()).code == 250 if client.banner.code == 220 else True
        client.abort()
    assert received(sink) == [MESSAGE]


async def test_limits_count_the_client_and_not_the_balancer(sink: UpstreamSink):
    async with serving(sink, proxy=LOOPBACK, limits=Limits(connections_per_client=1)) as served:
        first = await proxied(served, b"PROXY TCP4 198.51.100.7 203.0.113.1 1 25\r\n")
        second = await proxied(served, b"PROXY TCP4 198.51.100.8 203.0.113.1 1 25\r\n")
        third = await proxied(served, b"PROXY TCP4 198.51.100.7 203.0.113.1 2 25\r\n")
        assert [client.banner.code for client in (first, second, third)] == [220, 220, 421]
        for client in (first, second, third):
            client.abort()


BAD = [
    b"EHLO c.example\r\n",
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP4 198.51.100.7 203.0.113.1 40000\r\n",
    b"PROXY TCP4 198.51.100.7 203.0.113.1 40000 25 more\r\n",
    b"PROXY TCP4 2001:db8::7 2001:db8::1 40000 25\r\n",
    b"PROXY TCP4 198.51.100.700 203.0.113.1 40000 25\r\n",
    b"PROXY TCP4 198.51.100.7 203.0.113.1 70000 25\r\n",
    b"PROXY TCP4 198.51.100.7 203.0.113.1 x 25\r\n",
    b"PROXY UDP4 198.51.100.7 203.0.113.1 40000 25\r\n",
    b"PROXYTCP4 198.51.100.7 203.0.113.1 40000 25\r\n",
    b"proxy TCP4 198.51.100.7 203.0.113.1 40000 25\r\n",
    b"PROXY TCP4 198.51.100.7 203.0.113.1 40000 25\n",
    b"PROXY TCP4 " + b"1" * 200,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\r\n\r\nEHLO c.example\r\n",
    SIGNATURE + b"\x11\x11\x00\x0c" + addresses("198.51.100.7", "203.0.113.1"),
    v2(0x22, TCP4, addresses("198.51.100.7", "203.0.113.1")),
    v2(PROXY, 0x41, addresses("198.51.100.7", "203.0.113.1")),
    v2(PROXY, TCP4, b"\1\2\3\4"),
    b"",
    b"PRO",
    SIGNATURE + b"\x21",
    v2(PROXY, TCP4, addresses("198.51.100.7", "203.0.113.1"))[:-3],
]


@pytest.mark.parametrize("header", BAD, ids=lambda header: repr(header[:40]))
async def test_a_header_that_makes_no_sense_is_a_421(sink: UpstreamSink, header: bytes):
    """Also when the client goes before it is complete, as every port scan does."""
    async with serving(sink, proxy=LOOPBACK) as served:
        transport, wire = await asyncio.get_running_loop().create_connection(Words, "127.0.0.1", served.port)
        if header:
            transport.write(header)
        transport.write_eof()
        client = Client(transport, wire)
        reply = await client.read()
        assert (reply.code, reply.enhanced) == (421, "4.7.0")
        with pytest.raises(HangUpError):
            await client.read()
        client.abort()
        assert served.became("bad_proxy") == 1
        assert served.became("accepted") == 0
        assert served.events("bad_proxy")[0]["ip"] == "127.0.0.1"
        # The listener goes on accepting.
        again = await proxied(served, b"PROXY UNKNOWN\r\n")
        assert again.banner.code == 220
        again.abort()


async def test_a_client_that_drops_the_connection_before_its_header(sink: UpstreamSink):
    async with serving(sink, proxy=LOOPBACK) as served:
        for begun in (b"", b"PROXY TCP4 1"):
            transport, _ = await asyncio.get_running_loop().create_connection(Words, "127.0.0.1", served.port)
            transport.write(begun)
            transport.abort()
        await wait_for(lambda: served.became("bad_proxy") == 2, "both to be given up")


@pytest.mark.parametrize("begun", [b"", b"PROXY TCP4", SIGNATURE])
async def test_a_header_that_does_not_come_in_time(sink: UpstreamSink, monkeypatch, begun: bytes):
    monkeypatch.setattr(module, "HEADER_SECONDS", 0.1)
    async with serving(sink, proxy=LOOPBACK) as served:
        client = await proxied(served, begun)
        assert client.banner.code == 421
        with pytest.raises(HangUpError):
            await client.read()
    assert served.became("bad_proxy") == 1


async def test_a_slow_header_holds_nobody_up(sink: UpstreamSink):
    async with serving(sink, proxy=LOOPBACK) as served:
        loop = asyncio.get_running_loop()
        slow, wire = await loop.create_connection(Words, "127.0.0.1", served.port)
        for octet in b"PROXY TCP4 198.51.100.7 203.0.113.1 40000 25\r":
            slow.write(bytes((octet,)))
            await asyncio.sleep(0)
        quick = await proxied(served, b"PROXY UNKNOWN\r\n")
        assert quick.banner.code == 220
        quick.abort()
        slow.write(b"\n")
        client = Client(slow, wire)
        assert (await client.read()).code == 220
        client.abort()


async def test_a_stranger_may_not_speak_for_others(sink: UpstreamSink):
    async with serving(sink, proxy=(ip_network("192.0.2.0/24"),)) as served:
        client = await proxied(served, b"PROXY TCP4 198.51.100.7 203.0.113.1 40000 25\r\n")
        assert client.banner.code == 421
        client.abort()
    assert served.events("bad_proxy")[0]["problem"] == "127.0.0.1 may not speak for others"


class TestWithTls:
    async def test_implicit_tls_behind_the_header(self, sink: UpstreamSink, certificates: Certificates):
        witness = Witness()
        async with serving(
            sink, proxy=LOOPBACK, tls=certificates.server_context(), implicit=True, plugins=[witness]
        ) as served:
            for header in (
                b"PROXY TCP4 198.51.100.7 203.0.113.1 40000 465\r\n",
                v2(PROXY, TCP4, addresses("198.51.100.7", "203.0.113.1")),
            ):
                client = await proxied(
                    served, header, ssl=certificates.client_context(), server_hostname="localhost"
                )
                assert client.banner.code == 220
                await client.ehlo()
                await client.envelope()
                assert (await client.data(MESSAGE)).code == 250
                await client.close()
        assert {caller.ip for caller in witness.callers} == {"198.51.100.7"}
        assert all(caller.tls is not None for caller in witness.callers)

    async def test_starttls_keeps_who_the_client_is(self, sink: UpstreamSink, certificates: Certificates):
        witness = Witness()
        async with serving(
            sink, proxy=LOOPBACK, tls=certificates.server_context(), plugins=[witness]
        ) as served:
            client = await proxied(served, b"PROXY TCP4 198.51.100.7 203.0.113.1 40000 25\r\n")
            await client.ehlo()
            await client.start_tls(certificates.client_context())
            await client.envelope()
            client.abort()
        assert witness.callers[0].ip == "198.51.100.7"

    @pytest.mark.parametrize("behind", [b"EHLO c.example\r\n", b""])
    async def test_no_handshake_behind_the_header(
        self, sink: UpstreamSink, certificates: Certificates, behind: bytes
    ):
        limits = Limits(handshake_timeout=0.2)
        tls = certificates.server_context()
        async with serving(sink, proxy=LOOPBACK, tls=tls, implicit=True, limits=limits) as served:
            with pytest.raises((HangUpError, AssertionError, OSError)):
                await proxied(served, b"PROXY UNKNOWN\r\n" + behind)
            await wait_for(lambda: served.events("handshake_failed"), "the handshake to fail")

    async def test_garbage_hears_no_clear_text(self, sink: UpstreamSink, certificates: Certificates):
        tls = certificates.server_context()
        async with serving(sink, proxy=LOOPBACK, tls=tls, implicit=True) as served:
            with pytest.raises((HangUpError, OSError)):
                await proxied(served, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")


async def test_when_the_listener_stops_a_header_is_waited_for_no_more(sink: UpstreamSink):
    async with serving(sink, proxy=LOOPBACK) as served:
        transport, wire = await asyncio.get_running_loop().create_connection(Words, "127.0.0.1", served.port)
        transport.write(b"PROXY TCP4")
        await wait_for(lambda: served.listener._headers, "the listener to accept")
        served.listener.stop()
        with pytest.raises(HangUpError):
            await Client(transport, wire).read()
        transport.abort()
        with pytest.raises(ConnectionRefusedError):
            await proxied(served, b"PROXY UNKNOWN\r\n")
