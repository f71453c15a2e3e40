"""Opening a connection to a next hop: greetings that go wrong, AUTH, and telling who the client is."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.delivery.harness import QUICK, a_client, connected, place_of, settings_for
from tests.servers.tls import Certificates

from relayproxy.core import ports
from relayproxy.delivery.connect import ConnectError, connect, proxy_header
from relayproxy.delivery.settings import Address, Timeouts, UpstreamSettings
from relayproxy.testing.upstream import (
    NONSENSE,
    Capabilities,
    Disconnect,
    Fault,
    FaultPlan,
    Reset,
    Say,
    Stall,
    Step,
    Trickle,
    UpstreamSink,
    answer,
)


async def test_what_a_connection_knows():
    offered = Capabilities(size=12345, dsn=True, chunking=True, extra=("x-odd Stuff", "XFORWARD name ADDR"))
    async with UpstreamSink(offered) as sink, connected(sink) as connection:
        assert connection.capabilities == ports.Capabilities(
            frozenset(
                [
                    "PIPELINING",
                    "SIZE",
                    "8BITMIME",
                    "SMTPUTF8",
                    "DSN",
                    "CHUNKING",
                    "ENHANCEDSTATUSCODES",
                    "X-ODD",
                    "XFORWARD",
                ]
            )
            | {"XFORWARD NAME", "XFORWARD ADDR"},
            12345,
        )
        assert "SIZE" in connection.capabilities
        assert connection.address == place_of(sink)
        assert (connection.key, connection.tls, connection.fresh, connection.used) == (("key",), "", True, 0)


@pytest.mark.parametrize("banner", [Trickle(), answer(220, "several", "lines"), Say(b"220\r\n")])
async def test_greetings_that_are_fine(banner):
    async with (
        UpstreamSink(plan=FaultPlan(Fault(Step.BANNER, banner))) as sink,
        connected(sink) as connection,
    ):
        assert "PIPELINING" in connection.capabilities


TROUBLE = {
    "disconnect": Disconnect(),
    "reset": Reset(),
    "half a line": Say(b"220 hel", close=True),
    "554": answer(554, "5.7.1 not you"),
    "421": answer(421, "4.3.2 later", close=True),
    "354": answer(354, "go"),
    **{f"nonsense: {name}": said for name, said in NONSENSE.items()},
}


@pytest.mark.parametrize("tls", ["off", "opportunistic"])
@pytest.mark.parametrize("what", TROUBLE)
@pytest.mark.parametrize("step", [Step.CONNECT, Step.BANNER, Step.EHLO])
async def test_greetings_that_go_wrong(step: Step, what: str, tls: str, certificates: Certificates):
    """The text says where and why, on one printable line; who refuses is not asked again for TLS's sake."""
    action = TROUBLE[what]
    context = certificates.client_context() if tls == "opportunistic" else None
    plan = FaultPlan(Fault(step, action, times=0))
    async with UpstreamSink(plan=plan) as sink:
        with pytest.raises(ConnectError) as error:
            async with connected(sink, tls=tls, tls_context=context):
                pass
        assert str(error.value).startswith(f"{sink.address}: ")
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 300
        if what in ("554", "421") and step is not Step.EHLO:
            assert sink.sessions == 1
        assert sink.reached[Step.MAIL] == 0


@pytest.mark.parametrize("step", [Step.CONNECT, Step.BANNER, Step.EHLO])
async def test_a_next_hop_that_says_nothing(step: Step):
    async with UpstreamSink(plan=FaultPlan(Fault(step, Stall(), times=0))) as sink:
        with pytest.raises(ConnectError, match=r"no connection within 0\.1 s$"):
            async with connected(sink, timeouts=Timeouts(connect=0.1, command=5)):
                pass


async def test_an_address_where_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for address in (Address("127.0.0.1", port), Address(path="/nowhere/at/all"), Address("host.invalid", 25)):
        settings = UpstreamSettings("up", (address,), "relay.test", timeouts=QUICK)
        with pytest.raises(ConnectError, match=f"^{address}: "):
            await connect(settings, address, None, ())
        settings = UpstreamSettings("up", (address,), "relay.test", timeouts=QUICK, send_client="proxy")
        with pytest.raises(ConnectError, match=f"^{address}: "):
            await connect(settings, address, a_client(), ())


class TestHelo:
    @pytest.mark.parametrize("tls", ["off", "opportunistic"])
    async def test_who_knows_no_ehlo_is_asked_by_helo(self, tls: str, certificates: Certificates):
        plan = FaultPlan(
            Fault(Step.EHLO, answer(502, "5.5.1 unknown")),
            *([Fault(Step.EHLO, answer(250, "hello"))] if tls == "opportunistic" else []),
            *([Fault(Step.EHLO, answer(502, "5.5.1 unknown"))] if tls == "opportunistic" else []),
        )
        context = certificates.client_context() if tls == "opportunistic" else None
        async with (
            UpstreamSink(plan=plan) as sink,
            connected(sink, tls=tls, tls_context=context) as connection,
        ):
            assert connection.capabilities == ports.Capabilities()
            assert sink.sessions == 1

    async def test_who_refuses_both_is_of_no_use(self):
        async with UpstreamSink(plan=FaultPlan(Fault(Step.EHLO, answer(550, "5.7.1 no"), times=0))) as sink:
            with pytest.raises(ConnectError, match=r"EHLO was answered 550 5\.7\.1 no"):
                async with connected(sink):
                    pass
            assert sink.reached[Step.EHLO] == 2

    async def test_a_temporary_refusal_is_no_reason_to_step_down(self):
        async with UpstreamSink(plan=FaultPlan(Fault(Step.EHLO, answer(450, "busy")))) as sink:
            with pytest.raises(ConnectError, match="EHLO was answered 450 busy"):
                async with connected(sink):
                    pass
            assert sink.reached[Step.EHLO] == 1

    async def test_lmtp_says_lhlo_and_nothing_else(self):
        async with UpstreamSink(lmtp=True) as sink, connected(sink) as connection:
            assert "PIPELINING" in connection.capabilities
            assert sink.complaints == []
        async with UpstreamSink(lmtp=True, plan=FaultPlan(Fault(Step.EHLO, answer(550, "no")))) as sink:
            with pytest.raises(ConnectError, match="LHLO was answered 550 no"):
                async with connected(sink):
                    pass
            assert sink.complaints == []


async def test_a_unix_socket(short_folder):
    async with UpstreamSink(path=short_folder / "smtp") as sink, connected(sink) as connection:
        assert str(connection.address) == f"unix:{sink.path}"


@pytest.mark.parametrize("send_client", ["off", "proxy"])
async def test_the_source_address(send_client: str):
    seen: list[str] = []

    class Door(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            seen.append(transport.get_extra_info("peername")[0])
            transport.write(b"554 not you\r\n")
            transport.close()

    server = await asyncio.get_running_loop().create_server(Door, "127.0.0.1", 0)
    address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
    settings = UpstreamSettings(
        "up", (address,), "relay.test", timeouts=QUICK, source_address="127.0.0.9", send_client=send_client
    )
    with pytest.raises(ConnectError, match="554"):
        await connect(settings, address, a_client(), ())
    assert seen == ["127.0.0.9"]
    server.close()
    await server.wait_closed()


class TestAuth:
    OFFERED = Capabilities(auth={"relay": "pässword"})

    async def test_we_log_in(self):
        async with UpstreamSink(self.OFFERED) as sink:
            async with connected(sink, login="relay", password="pässword") as connection:
                assert "AUTH" in connection.capabilities
                assert sink.reached[Step.AUTH] == 1
            assert sink.complaints == []

    @pytest.mark.parametrize(
        ("offered", "plan"),
        [
            (Capabilities(auth={"relay": "other"}), ()),
            (Capabilities(), ()),
            (OFFERED, (Fault(Step.AUTH, answer(535, "5.7.8 no secret-42 here"), times=0),)),
            (OFFERED, (Fault(Step.AUTH, answer(454, "4.7.0 later"), times=0),)),
            (OFFERED, (Fault(Step.AUTH, Disconnect(), times=0),)),
            (OFFERED, (Fault(Step.AUTH, NONSENSE["binary"], times=0),)),
        ],
    )
    async def test_a_login_that_fails_shows_no_password(self, offered: Capabilities, plan: tuple[Fault, ...]):
        async with UpstreamSink(offered, plan=FaultPlan(*plan)) as sink:
            with pytest.raises(ConnectError) as error:
                async with connected(sink, login="relay", password="secret-42"):
                    pass
            assert "secret-42" not in str(error.value)
            assert sink.reached[Step.MAIL] == 0

    async def test_it_is_never_repeated_in_the_clear(self, certificates: Certificates):
        """TLS that is only tried must not become a way to get at our password."""
        context = certificates.client_context()
        offered = Capabilities(auth={"relay": "other"}, starttls=certificates.server_context())
        for plan in ((), (Fault(Step.STARTTLS, answer(454, "not now"), times=0),)):
            async with UpstreamSink(offered, plan=FaultPlan(*plan)) as sink:
                with pytest.raises(ConnectError):
                    async with connected(
                        sink, tls="opportunistic", tls_context=context, login="relay", password="secret-42"
                    ):
                        pass
                assert sink.sessions == 1


class TestXclient:
    ALL = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN")

    async def test_the_next_hop_learns_who_the_client_is(self):
        client = a_client(identity="ana@example.org")
        async with (
            UpstreamSink(Capabilities(xclient=self.ALL)) as sink,
            connected(sink, client, send_client="xclient") as connection,
        ):
            connection.wire.expect(0)
            assert sink.reached[Step.EHLO] == 2
            replies = await connection.wire.ask(b"MAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n", 3, 5)
            assert [reply.code for reply in replies] == [250, 250, 354]
            await connection.wire.ask(b"\r\n.\r\n", 1, 5)
            assert dict(sink.messages[0].peer.xclient) == {
                b"NAME": b"ptr1.example",
                b"ADDR": b"192.0.2.1",
                b"PORT": b"40001",
                b"PROTO": b"ESMTP",
                b"HELO": b"c1.example",
                b"LOGIN": b"ana@example.org",
            }
            assert sink.complaints == []

    async def test_only_what_is_offered_is_said(self):
        client = a_client(ip="2001:db8::1", proto="LMTP", ptr="", helo="")
        async with (
            UpstreamSink(Capabilities(xclient=("ADDR", "PROTO", "NAME"))) as sink,
            connected(sink, client, send_client="xclient") as connection,
        ):
            await connection.wire.ask(b"MAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n", 3, 5)
            await connection.wire.ask(b"\r\n.\r\n", 1, 5)
            assert dict(sink.messages[0].peer.xclient) == {
                b"ADDR": b"IPV6:2001:db8::1",
                b"PROTO": b"ESMTP",
                b"NAME": b"[UNAVAILABLE]",
            }

    async def test_no_client_no_xclient(self):
        async with (
            UpstreamSink(Capabilities(xclient=self.ALL)) as sink,
            connected(sink, None, send_client="xclient"),
        ):
            assert sink.reached[Step.EHLO] == 1

    async def test_a_next_hop_that_offers_none(self):
        async with UpstreamSink() as sink:
            with pytest.raises(ConnectError, match="offers no XCLIENT"):
                async with connected(sink, a_client(), send_client="xclient"):
                    pass

    async def test_a_next_hop_that_refuses_after_all(self):
        async with UpstreamSink(Capabilities(extra=("XCLIENT ADDR",))) as sink:
            with pytest.raises(ConnectError, match=r"XCLIENT was answered 501 5\.5\.4"):
                async with connected(sink, a_client(), send_client="xclient"):
                    pass


class TestProxy:
    @pytest.mark.parametrize(
        ("changes", "line"),
        [
            ({}, b"PROXY TCP4 192.0.2.1 203.0.113.25 40001 25\r\n"),
            (
                {"ip": "2001:db8::1", "local_ip": "2001:db8::25"},
                b"PROXY TCP6 2001:db8::1 2001:db8::25 40001 25\r\n",
            ),
            ({"ip": "2001:db8::1"}, b"PROXY UNKNOWN\r\n"),
            ({"ip": ""}, b"PROXY UNKNOWN\r\n"),
            ({"local_ip": ""}, b"PROXY UNKNOWN\r\n"),
        ],
    )
    def test_its_octets(self, changes: dict[str, str], line: bytes):
        assert proxy_header(a_client(**changes)) == line

    @pytest.mark.parametrize("unix", [False, True])
    @pytest.mark.parametrize("implicit", [False, True])
    async def test_it_comes_first(self, short_folder, certificates: Certificates, unix: bool, implicit: bool):
        """A door in front of the sink reads the line and passes the rest on."""
        tls = certificates.server_context() if implicit else None
        async with (
            UpstreamSink(tls=tls) as sink,
            a_door(sink, short_folder / "door" if unix else None) as door,
        ):
            settings = settings_for(
                sink,
                addresses=(door.address,),
                send_client="proxy",
                tls="implicit" if implicit else "off",
                tls_context=certificates.client_context() if implicit else None,
            )
            connection = await connect(settings, door.address, a_client(), ())
            assert "PIPELINING" in connection.capabilities
            assert connection.tls == ("TLSv1.3" if implicit else "")
            connection.wire.quit()
            await sink.until(lambda: sink.open_sessions == 0)
            # Without a client (the probe) there is nobody to speak for.
            assert door.lines == [proxy_header(a_client())]


class Door:
    """What reads the PROXY line."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.address = Address()


@asynccontextmanager
async def a_door(sink: UpstreamSink, path: Any) -> AsyncIterator[Door]:
    door, tasks = Door(), set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        door.lines.append(await reader.readline())
        further, onward = await asyncio.open_connection(sink.host, sink.port)
        tasks.add(asyncio.current_task())
        await asyncio.gather(pump(reader, onward), pump(further, writer))

    if path:
        server = await asyncio.start_unix_server(serve, path)
        door.address = Address(path=str(path))
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        door.address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
    yield door
    await asyncio.gather(*tasks)
    server.close()
    await server.wait_closed()
