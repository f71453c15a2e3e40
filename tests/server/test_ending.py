"""How connections end or never begin: limits, draining, retiring, and clients that don't read."""

import asyncio
import contextlib
import socket
import struct

import pytest
from tests.core.making import plugin
from tests.server.harness import MESSAGE, Served, received, serving
from tests.servers.client import Client, HangUpError, wire_form
from tests.servers.client import _Wire as Words
from tests.servers.process import PATIENCE, wait_for

from relayproxy.api import Plugin, Settings, hook, reject
from relayproxy.core.policy import Limits
from relayproxy.server import connection as module
from relayproxy.server import stream
from relayproxy.testing.upstream import Fault, Stall, Step, UpstreamSink, answer


class TestLimits:
    async def test_connections_of_one_client(self, sink: UpstreamSink):
        async with (
            serving(sink, limits=Limits(connections_per_client=2)) as served,
            await served.client(),
            await served.client() as second,
        ):
            third = await served.client()
            assert (third.banner.code, third.banner.enhanced) == (421, "4.7.0")
            with pytest.raises(HangUpError):
                await third.read()
            async with await served.client(source="127.0.0.2") as neighbour:
                assert neighbour.banner.code == 220
            await wait_for(lambda: served.counted("connections", "main") == 2, "the neighbour to go")
            await second.say("QUIT")
            await wait_for(lambda: served.counted("connections", "main") == 1, "a free place")
            async with await served.client() as again:
                assert again.banner.code == 220
        assert served.became("limited") == 1
        assert served.events("connection_limit")[0]["limit"] == "client"

    async def test_connections_in_all(self, sink: UpstreamSink):
        async with (
            serving(sink, limits=Limits(connections=2)) as served,
            await served.client(source="127.0.0.2"),
            await served.client(source="127.0.0.3"),
        ):
            refused = await served.client()
            assert refused.banner.code == 421
            refused.abort()
        assert served.events("connection_limit")[0]["limit"] == "total"

    async def test_a_client_that_was_refused_takes_no_place(self, sink: UpstreamSink):
        async with serving(sink, limits=Limits(connections_per_client=1)) as served:
            async with await served.client():
                for _ in range(5):
                    (await served.client()).abort()
            await served.until_empty()
            assert (await served.client()).banner.code == 220

    async def test_a_client_that_has_said_all_leaves_its_place(self, sink: UpstreamSink):
        async with serving(sink, limits=Limits(connections_per_client=1)) as served:
            first = await served.client()
            first.transport.write_eof()
            await wait_for(lambda: served.counted("connections", "main") == 0, "the place")
            async with await served.client() as second:
                assert second.banner.code == 220
            first.abort()

    async def test_messages_in_one_connection(self, sink: UpstreamSink):
        limits = Limits(messages_per_connection=2)
        async with serving(sink, limits=limits) as served, await served.client() as client:
            assert [(await client.message(MESSAGE)).code for _ in range(2)] == [250, 250]
            reply = await client.say("MAIL FROM:<a@example.org>")
            assert (reply.code, reply.enhanced) == (421, "4.7.0")
            with pytest.raises(HangUpError):
                await client.read()

    async def test_a_421_of_the_upstream_ends_the_session_too(self, sink: UpstreamSink):
        for step in (Step.RCPT, Step.DOT):
            sink.plan.add(Fault(step, answer(421, "4.3.2 going down")))
        async with serving(sink) as served:
            for _ in range(2):
                async with await served.client() as client:
                    await client.say("MAIL FROM:<a@example.org>")
                    reply = await client.say("RCPT TO:<b@example.net>")
                    if reply.code == 250:
                        reply = await client.data(MESSAGE)
                    assert (reply.code, reply.text) == (421, "4.3.2 going down")
                    with pytest.raises(HangUpError):
                        await client.read()

    async def test_a_connect_hook_refuses_in_place_of_the_banner(self, sink: UpstreamSink):
        class Doorman(Plugin[Settings]):
            @hook
            def connect(self, client):
                return reject("Not you", status="5.7.1")

        async with serving(sink, plugins=[Doorman(Settings())]) as served, await served.client() as client:
            assert (client.banner.code, client.banner.text) == (554, "5.7.1 Not you")
            with pytest.raises(HangUpError):
                await client.read()


def drain(served: Served) -> None:
    """What a worker does when it is told to stop."""
    served.services.draining = True
    served.listener.stop()
    for connection in served.listener.connections():
        connection.drain()


def retire(served: Served) -> None:
    """What a worker does when a newer generation has taken over."""
    served.services.retiring = True
    served.listener.stop()
    for connection in served.listener.connections():
        connection.retire()


class TestDraining:
    async def test_an_idle_client_is_told_and_a_transaction_finishes(self, sink: UpstreamSink):
        async with serving(sink) as served, await served.client() as idle, await served.client() as busy:
            await busy.envelope()
            drain(served)
            reply = await idle.read()
            assert (reply.code, reply.enhanced) == (421, "4.3.2")
            with pytest.raises(HangUpError):
                await idle.read()
            assert (await busy.data(MESSAGE)).code == 250
            assert (await busy.read()).code == 421
            with pytest.raises(HangUpError):
                await busy.read()
            await served.until_empty()
        assert received(sink) == [MESSAGE]

    async def test_content_that_is_on_its_way_finishes(self, sink: UpstreamSink):
        async with serving(sink) as served, await served.client() as client:
            await client.envelope()
            await client.say("DATA")
            await client.send(MESSAGE[:20])
            await served.until_idle()
            drain(served)
            await client.send(wire_form(MESSAGE)[20:])
            assert [(await client.read()).code for _ in range(2)] == [250, 421]
        assert received(sink) == [MESSAGE]

    async def test_a_batch_is_answered_up_to_the_next_transaction(self, sink: UpstreamSink):
        sink.plan.add(Fault(Step.DOT, Stall()))
        async with serving(sink) as served, await served.client() as client:
            await client.envelope()
            await client.say("DATA")
            await client.send(
                wire_form(MESSAGE) + b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\n"
            )
            await sink.until_reached(Step.DOT)
            drain(served)
            sink.release()
            assert [(await client.read()).code for _ in range(2)] == [250, 421]
            with pytest.raises(HangUpError):
                await client.read()
        assert received(sink) == [MESSAGE]

    async def test_a_client_in_the_midst_of_auth_is_told(self, sink: UpstreamSink):
        async with (
            serving(sink, auth_mechanisms=("PLAIN",), auth_require_tls=False) as served,
            await served.client() as client,
        ):
            await client.say("AUTH PLAIN")
            drain(served)
            assert (await client.read()).code == 421
            with pytest.raises(HangUpError):
                await client.read()

    async def test_whoever_comes_now_is_refused_and_not_counted(self, sink: UpstreamSink):
        """The harness looks at the places in the quota."""
        async with serving(sink) as served:
            served.services.draining = True
            client = await served.client()
            assert (client.banner.code, client.banner.enhanced) == (421, "4.3.2")
            with pytest.raises(HangUpError):
                await client.read()
        assert served.became("refused") == 1

    async def test_nobody_is_accepted_any_more(self, sink: UpstreamSink):
        async with serving(sink) as served:
            drain(served)
            with pytest.raises(ConnectionRefusedError):
                await served.client()


class TestRetiring:
    async def test_a_client_goes_on_and_leaves_when_it_is_idle(self, sink: UpstreamSink, monkeypatch):
        monkeypatch.setattr(module, "_RETIRING_PATIENCE", 0.05)
        async with serving(sink) as served, await served.client() as client:
            await client.envelope()
            retire(served)
            assert (await client.data(MESSAGE)).code == 250
            reply = await client.read()
            assert (reply.code, reply.enhanced) == (421, "4.3.2")
            with pytest.raises(HangUpError):
                await client.read()

    async def test_an_idle_client_is_given_a_moment(self, sink: UpstreamSink, monkeypatch):
        monkeypatch.setattr(module, "_RETIRING_PATIENCE", 0.05)
        async with serving(sink) as served, await served.client() as client:
            await served.until_idle()
            retire(served)
            assert (await client.read()).code == 421

    async def test_who_speaks_in_time_is_served(self, sink: UpstreamSink):
        async with serving(sink) as served, await served.client() as client:
            retire(served)
            for _ in range(2):
                assert (await client.message(MESSAGE)).code == 250


class TestFlowControl:
    @pytest.fixture
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the kernel keep little of what is sent, so that a client's silence is felt soon."""
        listen = socket.socket.listen

        def listen_small(sock: socket.socket, backlog: int = 0) -> None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            listen(sock, backlog)

        monkeypatch.setattr(socket.socket, "listen", listen_small)

    @staticmethod
    async def _deaf(served: Served) -> Client:
        """A client that doesn't read, after its banner."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", served.port))
        transport, wire = await loop.create_connection(Words, sock=sock)
        client = Client(transport, wire)
        await client.read()
        transport.pause_reading()
        return client

    @pytest.mark.usefixtures("small")
    async def test_a_client_that_does_not_read_is_not_read_either(self, sink: UpstreamSink):
        async with serving(sink, limits=Limits(idle_commands=1_000_000)) as served:
            client = await self._deaf(served)
            (connection,) = served.connections
            count = 120_000
            client.transport.write(b"HELP\r\n" * count)
            await wait_for(lambda: connection._drained is not None, "the server to stop answering")
            await wait_for(lambda: connection._paused_reading, "the server to stop reading")
            assert len(connection._buffer) <= stream._FLOOD + 262_144
            async with await served.client() as other:
                assert (await other.message(MESSAGE)).code == 250
            client.transport.resume_reading()
            for _ in range(count):
                assert (await client.read()).code == 214
            assert (await client.say("NOOP")).code == 250
            client.abort()

    @pytest.mark.usefixtures("small")
    async def test_and_let_go_after_a_while(self, sink: UpstreamSink):
        async with serving(sink, limits=Limits(command_timeout=0.2, idle_commands=1_000_000)) as served:
            client = await self._deaf(served)
            (connection,) = served.connections
            client.transport.write(b"HELP\r\n" * 120_000)
            await wait_for(lambda: connection._drained is not None, "the server to stop answering")
            await wait_for(lambda: served.counted("connections", "main") == 0, "the server to lose patience")
            await served.until_empty()
            assert served.became("timeout") == 1
            client.abort()

    async def test_a_flood_of_commands_is_answered_to_the_last(self, sink: UpstreamSink):
        async with (
            serving(sink, limits=Limits(idle_commands=1_000_000)) as served,
            await served.client() as client,
        ):
            client.transport.write(b"NOOP\r\n" * 60_000)
            for _ in range(60_000):
                assert (await client.read()).code == 250


class Waiting:
    """A plugin that waits in one hook for a door that a test may open, and counts the ends it hears of."""

    def __init__(self, stage: str) -> None:
        self.began, self.cancelled, self.door = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.closed = 0

        async def wait(_self):
            self.began.set()
            try:
                await self.door.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise

        async def session_closed(_self):
            await asyncio.sleep(0)
            self.closed += 1

        self.plugin = plugin("waiting", **{stage: wait, "session_closed": session_closed})


async def say_all(client: Client) -> None:
    """A whole session; the connection is expected to go in the middle."""
    with contextlib.suppress(HangUpError):
        await client.ehlo()
        await client.message(MESSAGE)
        await client.read()


def reset(transport: asyncio.BaseTransport) -> None:
    """Be gone: a connection that is only closed may be half open, and its client may still read."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class TestHangingUp:
    """What runs for a client that has gone is cancelled, save the commit."""

    async def test_before_the_banner(self, sink: UpstreamSink):
        waiting = Waiting("connect")
        async with asyncio.timeout(PATIENCE), serving(sink, plugins=[waiting.plugin]) as served:
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            await waiting.began.wait()
            reset(writer.transport)
            await waiting.cancelled.wait()
            await served.until_empty()
        assert waiting.closed == 1

    @pytest.mark.parametrize("stage", ["helo", "mail", "rcpt", "message", "before_forward"])
    async def test_later(self, sink: UpstreamSink, stage: str):
        waiting = Waiting(stage)
        async with asyncio.timeout(PATIENCE), serving(sink, plugins=[waiting.plugin]) as served:
            client = await served.client(helo="")
            sending = asyncio.create_task(say_all(client))
            await waiting.began.wait()
            reset(client.transport)
            await waiting.cancelled.wait()
            await sending
            await served.until_empty()
        assert waiting.closed == 1
        assert sink.arrived == []
        assert served.events("plugin_fault") == []
        told = [(event["outcome"], event["reply"]) for event in served.events("message")]
        heard = stage in ("message", "before_forward")
        assert told == [("deferred", "451 4.4.2 The client hung up")] * heard

    async def test_the_commit_and_its_report_go_on(self, sink: UpstreamSink):
        waiting = Waiting("after_forward")
        sink.plan.add(Fault(Step.DOT, Stall()))
        async with asyncio.timeout(PATIENCE), serving(sink, plugins=[waiting.plugin]) as served:
            client = await served.client(helo="")
            sending = asyncio.create_task(say_all(client))
            await sink.until_reached(Step.DOT)
            reset(client.transport)
            await sending
            await wait_for(lambda: all(one.lost for one in served.connections), "the loss to be noticed")
            sink.release()
            await waiting.began.wait()
            waiting.door.set()
            await served.until_empty()
        assert not waiting.cancelled.is_set()
        assert len(sink.messages) == 1
        assert served.events("message")[0]["outcome"] == "relayed"

    async def test_a_client_that_goes_during_the_report_cancels_nothing(self, sink: UpstreamSink):
        waiting = Waiting("after_forward")
        async with asyncio.timeout(PATIENCE), serving(sink, plugins=[waiting.plugin]) as served:
            client = await served.client()
            assert (await client.message(MESSAGE)).code == 250
            await waiting.began.wait()
            reset(client.transport)
            await wait_for(lambda: all(one.lost for one in served.connections), "the loss to be noticed")
            waiting.door.set()
            await served.until_empty()
        assert not waiting.cancelled.is_set()
