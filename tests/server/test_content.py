"""Content on a connection: any pieces, every refusal, the time it may take, and the budget given back."""

import asyncio
import contextlib
import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.harness import MESSAGE, received, serving
from tests.servers.client import HangUpError, wire_form
from tests.servers.process import wait_for

from relayproxy.core.policy import Limits
from relayproxy.core.session import Session
from relayproxy.server.store import SPILL
from relayproxy.testing.upstream import Capabilities, Fault, Stall, Step, UpstreamSink

BIG = b"Subject: big\r\n\r\n" + (b"x" * 998 + b"\r\n") * 3000


@settings(max_examples=40, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=30), max_size=8),
    cuts=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    chunked=st.booleans(),
)
def test_any_octets_in_any_pieces(lines: list[bytes], cuts: list[int], chunked: bool):
    """Lines of any octets but CR, LF and NUL, sent by DATA or BDAT, cut anywhere, arrive as they are."""
    body = b"".join(line.translate(None, b"\r\n\0") + b"\r\n" for line in lines)
    content = b"Subject: x\r\n\r\n" + body

    async def run() -> list[bytes]:
        capabilities = Capabilities(chunking=chunked)
        async with (
            UpstreamSink(capabilities) as sink,
            serving(sink) as served,
            await served.client() as client,
        ):
            await client.envelope(options="BODY=8BITMIME")
            if chunked:
                wire, rest, turn = b"", content, 0
                while rest:
                    size = cuts[turn % len(cuts)]
                    piece, rest, turn = rest[:size], rest[size:], turn + 1
                    wire += b"BDAT %d\r\n" % len(piece) + piece
                wire += b"BDAT 0 LAST\r\n"
                count = turn + 1
            else:
                assert (await client.say("DATA")).code == 354
                wire, count = wire_form(content), 1
            turn = 0
            while wire:
                size = cuts[turn % len(cuts)]
                await client.send(wire[:size])
                wire, turn = wire[size:], turn + 1
                await asyncio.sleep(0)
            assert [(await client.read()).code for _ in range(count)] == [250] * count
        assert sink.complaints == []
        return received(sink)

    assert asyncio.run(run()) == [content]


@pytest.mark.parametrize("chunking", [False, True])
async def test_large_content_goes_through_a_file_unchanged(tmp_path: Path, chunking: bool):
    assert len(BIG) > 2 * SPILL
    async with (
        UpstreamSink(Capabilities(chunking=chunking)) as sink,
        serving(sink, folder=tmp_path) as served,
        await served.client() as client,
    ):
        assert (await client.message(BIG)).code == 250
        await client.envelope()
        await client.send(b"BDAT %d LAST\r\n" % len(BIG) + BIG)
        assert (await client.read()).code == 250
    assert received(sink) == [BIG, BIG]


async def test_a_disk_that_is_full_is_a_452(sink: UpstreamSink, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with serving(sink) as served, await served.client() as client:
        with monkeypatch.context() as patch:
            patch.setattr("relayproxy.server.store.os.write", full)
            reply = await client.message(BIG)
        assert (reply.code, reply.enhanced) == (452, "4.3.1")
        assert served.services.budget.used == 0
        assert (await client.message(BIG)).code == 250
    assert served.events("content_refused")[0]["problem"] == "temporary file: No space left on device"
    assert received(sink) == [BIG]


class TestLimits:
    async def test_declared_too_big(self, sink: UpstreamSink):
        async with serving(sink, limits=Limits(message_size=1000)) as served, await served.client() as client:
            assert client.extensions["SIZE"] == "1000"
            assert (await client.say("MAIL FROM:<a@example.org> SIZE=1000")).code == 250
            await client.say("RSET")
            reply = await client.say("MAIL FROM:<a@example.org> SIZE=1001")
            assert (reply.code, reply.enhanced) == (552, "5.3.4")

    @pytest.mark.parametrize("way", ["data", "bdat", "bdat last"])
    async def test_too_big_in_flight(self, sink: UpstreamSink, way: str):
        async with serving(sink, limits=Limits(message_size=1000)) as served, await served.client() as client:
            content = b"Subject: x\r\n\r\n" + b"y" * 985 + b"\r\n\r\n"
            await client.envelope()
            if way == "data":
                reply = await client.data(content)
            elif way == "bdat last":
                reply = await client.say(b"BDAT %d LAST\r\n" % len(content) + content[:-2])
            else:
                await client.say(b"BDAT %d\r\n" % len(content) + content[:-2])
                reply = await client.say("BDAT 0 LAST")
            assert (reply.code, reply.enhanced) == (552, "5.3.4")
            assert served.services.budget.used == 0
            assert (await client.message(MESSAGE)).code == 250
        assert received(sink) == [MESSAGE]

    async def test_octets_in_flight(self, sink: UpstreamSink):
        async with (
            serving(sink, budget=10_000) as served,
            await served.client() as first,
            await served.client() as second,
        ):
            await first.envelope()
            await first.say("DATA")
            await first.send(b"Subject: x\r\n\r\n" + b"y" * 8000)
            await wait_for(lambda: served.counted("bytes_in_flight") > 8000, "the octets to be counted")
            reply = await second.say("MAIL FROM:<a@example.org> SIZE=5000")
            assert (reply.code, reply.enhanced) == (452, "4.3.1")
            reply = await second.message(b"Subject: x\r\n\r\n" + b"y" * 5000 + b"\r\n")
            assert (reply.code, reply.enhanced) == (452, "4.3.1")
            await first.send(b"\r\n.\r\n")
            assert (await first.read()).code == 250
            assert (await second.message(MESSAGE, options="SIZE=5000")).code == 250

    @pytest.mark.parametrize(
        "content",
        [
            b"a\nb\r\n",
            b"a\rb\r\n",
            b"\n.\r\n",
            b"a\0b\r\n",
            b"a\r\r\n",
            b"\r\n.\r\r\n",
            b"a\n.\r\nMAIL FROM:<>\r\n",
        ],
    )
    @pytest.mark.parametrize("chunked", [False, True])
    async def test_bare_newlines_and_nul(self, sink: UpstreamSink, content: bytes, chunked: bool):
        async with serving(sink) as served, await served.client() as client:
            await client.envelope()
            if chunked:
                reply = await client.say(b"BDAT %d LAST\r\n" % len(content) + content[:-2])
            else:
                await client.say("DATA")
                await client.send(content + b".\r\n")
                reply = await client.read()
            assert (reply.code, reply.enhanced) == (550, "5.5.2")
            assert (await client.say("NOOP")).code == 250
            assert (await client.say("DATA")).code == 503
        assert sink.arrived == []
        assert served.counted("messages_total", "main", "rejected") == 1


class TestHangingUp:
    async def test_a_client_that_goes_within_data_leaves_nothing_behind(self, sink: UpstreamSink):
        async with serving(sink) as served:
            for content in (b"Subject: x\r\n", BIG):
                client = await served.client()
                await client.envelope()
                await client.say("DATA")
                await client.send(content)
                client.abort()
            await served.until_empty()
        assert sink.arrived == []

    async def test_a_client_that_closes_its_side_hears_the_answer(self, sink: UpstreamSink):
        async with serving(sink) as served, await served.client() as client:
            await client.envelope()
            await client.say("DATA")
            await client.send(wire_form(MESSAGE))
            client.transport.write_eof()
            assert (await client.read()).code == 250
            with pytest.raises(HangUpError):
                await client.read()
        assert received(sink) == [MESSAGE]


class TestTime:
    async def test_a_silent_client(self, sink: UpstreamSink):
        async with (
            serving(sink, limits=Limits(command_timeout=0.1)) as served,
            await served.client() as client,
        ):
            await client.send(b"NO")
            reply = await client.read()
            assert (reply.code, reply.enhanced) == (421, "4.4.2")
            with pytest.raises(HangUpError):
                await client.read()
        assert served.became("timeout") == 1

    @pytest.mark.parametrize("begin", [b"", b"MAIL FROM:<" + b"a" * 5000])
    async def test_a_command_that_comes_in_drops_is_not_waited_for_longer(self, sink, begin):
        """One octet after the other resets nothing: the whole line has to come in time (a slow loris)."""
        limits = Limits(command_timeout=0.3)
        async with serving(sink, limits=limits) as served, await served.client() as client:
            await client.send(begin)
            gone = asyncio.create_task(client.read())
            while not gone.done():
                with contextlib.suppress(ConnectionError):
                    await client.send(b"x")
                await asyncio.wait({gone}, timeout=0.02)
            assert (await gone).code == 421
            assert served.became("timeout") == 1

    @pytest.mark.parametrize("begin", [b"DATA\r\n", b"BDAT 5000 LAST\r\n", b"BDAT 5 LAST\r\n"])
    async def test_silence_within_content(self, sink: UpstreamSink, begin: bytes):
        async with serving(sink, limits=Limits(data_timeout=0.1)) as served, await served.client() as client:
            await client.envelope()
            await client.send(begin)
            if begin.startswith(b"DATA"):
                await client.read()
                await client.send(b"Subject: x\r\n\r\nhalf a mess")
            else:
                await client.send(b"Subj")
            reply = await client.read()
            assert (reply.code, reply.enhanced) == (421, "4.4.2")
            with pytest.raises(HangUpError):
                await client.read()
        assert sink.arrived == []

    @pytest.mark.parametrize("begin", [b"DATA\r\n", b"BDAT 5000 LAST\r\n"])
    async def test_content_that_comes_in_drops_is_let_go(self, sink, begin):
        """Each octet is some progress, but not enough: a slow loris falls behind by more than the time limit."""
        limits = Limits(data_timeout=0.3)
        async with serving(sink, limits=limits) as served, await served.client() as client:
            await client.envelope()
            await client.send(begin)
            if begin.startswith(b"DATA"):
                await client.read()
            gone = asyncio.create_task(client.read())
            while not gone.done():
                with contextlib.suppress(ConnectionError):
                    await client.send(b"x")
                await asyncio.wait({gone}, timeout=0.02)
            assert (await gone).code == 421
            assert served.became("timeout") == 1
        assert sink.arrived == []

    async def test_time_in_which_the_upstream_thinks_is_not_the_clients(self, sink: UpstreamSink):
        """A second client, who is silent, shows that the time is up."""
        limits = Limits(command_timeout=0.1, data_timeout=0.1)
        for step in (Step.RCPT, Step.DOT):
            sink.plan.add(Fault(step, Stall()))
        async with serving(sink, limits=limits) as served, await served.client() as client:
            talk = asyncio.create_task(client.message(MESSAGE))
            for step in (Step.RCPT, Step.DOT):
                await sink.until_reached(step)
                async with await served.client() as silent:
                    assert (await silent.read()).code == 421
                sink.release()
            assert (await talk).code == 250


async def test_a_defect_of_ours_is_a_451_and_the_session_goes_on(
    sink: UpstreamSink, monkeypatch: pytest.MonkeyPatch
):
    async def broken(*_: object) -> None:
        raise RuntimeError("secret")

    async with serving(sink, defects=2) as served, await served.client() as client:
        for method, command in (("rcpt", "RCPT TO:<b@example.net>"), ("deliver", "")):
            with monkeypatch.context() as patch:
                patch.setattr(Session, method, broken)
                if command:
                    await client.say("MAIL FROM:<a@example.org>")
                    reply = await client.say(command)
                else:
                    reply = await client.message(MESSAGE)
            assert (reply.code, reply.enhanced) == (451, "4.3.0")
            assert "secret" not in reply.text
            assert f"id={served.connections[0]._talk.client.id}" in reply.text
        assert (await client.message(MESSAGE)).code == 250
    assert received(sink) == [MESSAGE]
