"""Content on its way to a next hop: octet for octet by DATA and BDAT, early refusals, LMTP's many answers."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.delivery.harness import LEAD, MESSAGE, THREE, a_hop, an_envelope, codes

from relayproxy.delivery.settings import Timeouts
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply
from relayproxy.testing.upstream import (
    Capabilities,
    Disconnect,
    Fault,
    Reset,
    Say,
    Stall,
    Step,
    UpstreamSink,
    answer,
)

BIG = Message.from_bytes(b"Subject: big\r\n\r\n" + (b"." + b"x" * 997 + b"\r\n") * 800)


class TestContent:
    @pytest.mark.parametrize(
        "message", [MESSAGE, BIG, Message(b""), Message.from_bytes(b".\r\n"), Message.from_bytes(b"x")]
    )
    async def test_it_arrives_as_it_is(self, capabilities: Capabilities, message: Message):
        async with UpstreamSink(capabilities) as sink, a_hop(sink) as hop:
            assert codes((await hop.deliver(message=message))[1]) == [250]
            content = sink.messages[0].content
            sent = bytes(message)
            if sent and not capabilities.chunking and not sent.endswith(b"\r\n"):
                sent += b"\r\n"
            assert content == LEAD + sent

    async def test_no_content_at_all_stays_so(self):
        async with UpstreamSink() as sink, a_hop(sink) as hop:
            assert codes((await hop.deliver(message=Message(b"", dotless=True)))[1]) == [250]
            assert sink.messages[0].content == LEAD

    @settings(max_examples=50, deadline=None)
    @given(
        lines=st.lists(st.binary(max_size=12), max_size=8),
        chunking=st.booleans(),
        large=st.booleans(),
    )
    def test_any_octets(self, lines: list[bytes], chunking: bool, large: bool):
        """Whatever stands in the lines, dots first of all; large content goes out in pieces."""
        body = b"".join(line.translate(None, b"\r\n\0").replace(b"a", b".") + b"\r\n" for line in lines)
        message = Message.from_bytes(
            b"Subject: x\r\n\r\n" + body * (1 + 300_000 // max(1, len(body)) * large)
        )

        async def run() -> bytes:
            async with UpstreamSink(Capabilities(chunking=chunking)) as sink, a_hop(sink) as hop:
                assert codes(
                    (await hop.deliver(envelope=an_envelope(body="8BITMIME"), message=message))[1]
                ) == [250]
                assert sink.complaints == []
                return sink.messages[0].content

        assert asyncio.run(run()) == LEAD + bytes(message)

    async def test_a_hop_that_does_not_read_is_waited_for(self):
        async with UpstreamSink() as sink, a_hop(sink) as hop:
            large = Message.from_bytes(b"Subject: x\r\n\r\n" + (b"y" * 998 + b"\r\n") * 20_000)
            sink.plan.add(Fault(Step.CONTENT, Stall(), after=1000))
            sending = asyncio.create_task(hop.deliver(message=large))
            await sink.until_reached(Step.CONTENT)
            sink.release()
            assert codes((await sending)[1]) == [250]
            assert sink.messages[0].content == LEAD + bytes(large)

    async def test_a_hop_that_does_not_read_in_time(self):
        quick = Timeouts(connect=5.0, command=5.0, data=0.1, final=5.0)
        async with UpstreamSink() as sink, a_hop(sink, timeouts=quick) as hop:
            large = Message.from_bytes(b"Subject: x\r\n\r\n" + (b"y" * 998 + b"\r\n") * 20_000)
            sink.plan.add(Fault(Step.CONTENT, Stall(), after=1000))
            _, final = await hop.deliver(message=large)
            assert codes(final) == [451]
            assert hop.events("upstream_trouble")[0]["problem"] == "no answer in time"
            sink.release()
        assert sink.arrived == []

    @pytest.mark.parametrize("message", [MESSAGE, BIG])
    async def test_a_refusal_in_the_middle_of_the_content_counts(self, message: Message):
        """A hop may refuse early and hang up; its word is better than ours."""
        async with UpstreamSink() as sink, a_hop(sink) as hop:
            sink.plan.add(Fault(Step.CONTENT, answer(552, "5.3.4 too big", close=True), after=10))
            _, final = await hop.deliver(message=message)
            assert final == [Reply(552, "5.3.4", "too big")]
            assert codes((await hop.deliver())[1]) == [250]
            assert sink.sessions == 2

    async def test_words_after_the_final_reply_end_the_connection_and_not_the_message(self):
        async with UpstreamSink() as sink, a_hop(sink) as hop:
            sink.plan.add(Fault(Step.AFTER, Say(b"421 4.3.2 and good night\r\n")))
            assert codes((await hop.deliver())[1]) == [250]
            assert codes((await hop.deliver())[1]) == [250]
            assert sink.sessions == 2
            assert len(sink.messages) == 2


class TestLmtp:
    async def test_each_recipient_its_final_reply(self, capabilities: Capabilities):
        async with UpstreamSink(capabilities, lmtp=True) as sink, a_hop(sink) as hop:
            sink.refusals = {"c@example.net": b"550 5.1.1 no\r\n"}
            sink.plan.add(Fault(Step.DOT, answer(452, "4.2.2 full"), nth=1))
            heard, final = await hop.deliver(envelope=THREE)
            assert codes(heard) == [250, 550, 250]
            assert codes(final) == [250, 452]
            assert hop.upstream.per_recipient
            assert sink.messages[0].recipients == ("b@example.net",)
            assert codes((await hop.deliver())[1]) == [250]
            assert sink.sessions == 1
            assert sink.complaints == []

    @pytest.mark.parametrize("action", [Disconnect(), Reset(), Say(b"what?\r\n"), answer(354, "more")])
    async def test_who_was_answered_before_the_connection_went(self, capabilities: Capabilities, action):
        async with UpstreamSink(capabilities, lmtp=True) as sink, a_hop(sink) as hop:
            sink.plan.add(Fault(Step.DOT, answer(554, "5.6.0 no"), nth=0))
            sink.plan.add(Fault(Step.DOT, action, nth=2))
            _, final = await hop.deliver(envelope=THREE)
            if isinstance(action, Say) and action.data.startswith(b"354"):
                # All three have come, one of them nonsense: what is left of the others can't be trusted.
                assert codes(final) == [451, 451, 451]
            else:
                assert codes(final) == [554, 250, 451]
            assert hop.events("in_doubt")

    async def test_a_refused_data_is_everybodys(self):
        async with UpstreamSink(lmtp=True) as sink, a_hop(sink) as hop:
            sink.plan.add(Fault(Step.DATA, answer(451, "4.3.0 later")))
            _, final = await hop.deliver(envelope=THREE)
            assert codes(final) == [451, 451, 451]
            assert codes((await hop.deliver())[1]) == [250]

    async def test_over_a_unix_socket(self, short_folder):
        async with UpstreamSink(lmtp=True, path=short_folder / "lmtp") as sink, a_hop(sink) as hop:
            assert codes((await hop.deliver(envelope=THREE))[1]) == [250, 250, 250]
