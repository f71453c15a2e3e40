"""Clients that come, go, dawdle and repeat themselves, and envelopes that are large or lead two ways."""

import asyncio

import pytest
from tests.servers.client import Client, HangUpError, wire_form
from tests.servers.process import PATIENCE
from tests.servers.relay import Relay

from relayproxy.testing.upstream import Capabilities, Fault, Stall, Step, UpstreamSink

MESSAGE = b"From: a@example.org\r\nSubject: life\r\nMessage-ID: <7@example.org>\r\n\r\nbody\r\n"


async def _is_well(relay: Relay, sink: UpstreamSink) -> None:
    """A new client's message goes through."""
    before = len(sink.messages)
    async with await Client.open(relay.port) as client:
        assert (await client.message(b"Subject: well?\r\n\r\nnumber %d\r\n" % before)).code == 250
    assert len(sink.messages) == before + 1


@pytest.mark.parametrize("content", [b"", b"Subject: half\r\n\r\nof a mess", b"Subject: half\r\n\r\n.\r"])
@pytest.mark.parametrize("way", ["data", "bdat"])
@pytest.mark.parametrize("how", ["falls silent", "hangs up its side"])
async def test_a_client_that_stops_before_the_end_leaves_nothing(
    relay: Relay, how: str, way: str, content: bytes
):
    async with UpstreamSink() as sink:
        relay.configure(sink.address, limits={"data_timeout": "500ms"})
        await relay.start()
        async with await Client.open(relay.port) as client:
            await client.envelope()
            if way == "data":
                await client.say("DATA")
                await client.send(content)
            else:
                await client.send(b"BDAT 1000 LAST\r\n" + content)
            if how == "hangs up its side":
                client.transport.write_eof()
            try:
                assert (await client.read()).code == 421
                await client.read()
            except HangUpError:
                pass
            else:
                pytest.fail("the session went on")
        assert await relay.end() == 0
        assert sink.arrived == []


@pytest.mark.parametrize("after", ["MAIL", "RCPT", "DATA", "half the content", "all but the dot"])
async def test_a_client_that_leaves_before_the_dot_leaves_nothing(relay: Relay, after: str):
    half = MESSAGE * 2000
    async with UpstreamSink() as sink:
        relay.configure(sink.address)
        await relay.start()
        client = await Client.open(relay.port)
        await client.say("MAIL FROM:<a@example.org>")
        if after != "MAIL":
            await client.say("RCPT TO:<b@example.net>")
        if after not in ("MAIL", "RCPT"):
            await client.say("DATA")
        if after == "half the content":
            await client.send(half[:-1])
        elif after == "all but the dot":
            await client.send(half + b".\r")
        client.abort()
        await _is_well(relay, sink)
        assert len(sink.arrived) == 1
        assert sink.complaints == []


async def test_a_client_that_leaves_after_the_dot_is_not_delivered_to_twice(relay: Relay):
    """Its 250 was lost; the same message again is answered from the ledger, another one is delivered."""
    async with UpstreamSink() as sink:
        relay.configure(sink.address)
        await relay.start()
        sink.plan.add(Fault(Step.DOT, Stall()))
        client = await Client.open(relay.port)
        await client.envelope(recipients=("b@example.net", "c@example.net"))
        await client.say("DATA")
        await client.send(wire_form(MESSAGE))
        await sink.until_reached(Step.DOT)
        client.abort()
        sink.release()
        await sink.until_messages(1)
        async with await Client.open(relay.port) as again:
            reply = await _until_settled(again)
            assert reply.code == 250
            assert len(sink.messages) == 1
            # One octet, one recipient, one sender makes another message.
            recipients = ("b@example.net", "c@example.net")
            assert (await again.message(MESSAGE + b"x\r\n", recipients=recipients)).code == 250
            assert (await again.message(MESSAGE, recipients=recipients[:1])).code == 250
            assert (await again.message(MESSAGE, "z@example.org", recipients)).code == 250
        assert len(sink.messages) == 4


async def _until_settled(client: Client):
    """Send the message until it is no longer deferred, as a client does; the first hand-over may still run."""
    async with asyncio.timeout(PATIENCE):
        while True:
            reply = await client.message(MESSAGE, recipients=("b@example.net", "c@example.net"))
            if reply.kind != 4:
                return reply


async def test_a_client_that_heard_its_250_may_send_the_same_again(relay: Relay):
    async with UpstreamSink() as sink:
        relay.configure(sink.address)
        await relay.start()
        async with await Client.open(relay.port) as client:
            for _ in range(3):
                assert (await client.message(MESSAGE)).code == 250
            await client.say("QUIT")
        async with await Client.open(relay.port) as client:
            assert (await client.message(MESSAGE)).code == 250
        assert len(sink.messages) == 4


async def test_the_message_is_delivered_though_the_client_did_not_wait(relay: Relay):
    """What was committed upstream is finished, whoever has left meanwhile."""
    async with UpstreamSink() as sink:
        relay.configure(sink.address)
        await relay.start()
        for number in range(20):
            client = await Client.open(relay.port)
            await client.envelope(f"n{number}@example.org")
            await client.say("DATA")
            await client.send(wire_form(MESSAGE))
            await sink.until_reached(Step.DOT, number + 1)
            client.abort()
        await sink.until_messages(20)
        assert sink.duplicates() == {}
        assert {sunk.sender for sunk in sink.messages} == {f"n{number}@example.org" for number in range(20)}


async def test_a_slow_client_is_served_and_holds_nobody_up(relay: Relay):
    async with UpstreamSink() as sink:
        relay.configure(sink.address, limits={"data_timeout": "2s"})
        await relay.start()
        async with await Client.open(relay.port) as slow:
            for octet in b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n":
                await slow.send(bytes((octet,)))
            codes = [(await slow.read()).code for _ in range(3)]
            assert codes == [250, 250, 354]
            *most, last = wire_form(MESSAGE)
            for number, octet in enumerate(most):
                await slow.send(bytes((octet,)))
                if number % 25 == 0:
                    await _is_well(relay, sink)
            await slow.send(bytes((last,)))
            assert (await slow.read()).code == 250
        assert sink.messages[-1].content.endswith(MESSAGE)


async def test_many_idle_clients_hold_nobody_up(relay: Relay):
    async with UpstreamSink() as sink:
        relay.configure(sink.address, limits={"connections_per_client": 500})
        await relay.start()
        idle = [await Client.open(relay.port) for _ in range(300)]
        await _is_well(relay, sink)
        for client in idle:
            client.abort()
        await _is_well(relay, sink)


@pytest.mark.parametrize("pipelined", [True, False])
async def test_a_thousand_recipients(relay: Relay, pipelined: bool):
    names = [f"user{number}@example.net" for number in range(1001)]
    async with UpstreamSink() as sink:
        relay.configure(sink.address)
        await relay.start()
        async with await Client.open(relay.port) as client:
            if pipelined:
                commands = ["MAIL FROM:<a@example.org>", *(f"RCPT TO:<{name}>" for name in names)]
                mail, *rcpts = await client.pipelined(*commands)
            else:
                mail, *rcpts = await client.envelope(recipients=tuple(names))
            assert mail.code == 250
            assert {reply.code for reply in rcpts[:1000]} == {250}
            assert (rcpts[1000].code, rcpts[1000].enhanced) == (452, "4.5.3")
            assert (await client.data(MESSAGE)).code == 250
        (sunk,) = sink.messages
        assert list(sunk.recipients) == names[:1000]
        assert sink.complaints == []


async def test_recipients_on_another_route_come_back_in_a_transaction_of_their_own(relay: Relay):
    async with UpstreamSink() as left, UpstreamSink() as right:
        relay.configure(
            "unused",
            upstreams={"left": {"address": left.address}, "right": {"address": right.address}},
            routes=[{"upstream": "left", "recipient_domains": ["left.example"]}, {"upstream": "right"}],
        )
        await relay.start()
        async with await Client.open(relay.port) as client:
            names = ("a@right.example", "b@left.example", "c@right.example", "d@left.example")
            replies = (await client.envelope(recipients=names))[1:]
            assert [reply.code for reply in replies] == [250, 452, 250, 452]
            assert {reply.enhanced for reply in replies[1::2]} == {"4.5.3"}
            assert (await client.data(MESSAGE)).code == 250
            assert (await client.message(MESSAGE, recipients=names[1::2])).code == 250
        assert [sunk.recipients for sunk in right.messages] == [names[::2]]
        assert [sunk.recipients for sunk in left.messages] == [names[1::2]]


async def test_rset_and_a_new_ehlo_forget_the_transaction(relay: Relay):
    async with UpstreamSink() as sink:
        relay.configure(sink.address)
        await relay.start()
        async with await Client.open(relay.port) as client:
            for forget in ("RSET", "EHLO again.example"):
                await client.envelope(recipients=("forgotten@example.net",))
                assert (await client.say(forget)).code == 250
                assert (await client.say("DATA")).kind in (4, 5)
                assert (await client.message(MESSAGE + forget.encode() + b"\r\n")).code == 250
        assert [sunk.recipients for sunk in sink.messages] == [("b@example.net",)] * 2
        assert sink.complaints == []


async def test_what_the_upstream_cannot_take_is_not_offered(relay: Relay):
    few = Capabilities(size=1_000_000, eightbitmime=False, smtputf8=False)
    async with UpstreamSink(few) as sink:
        relay.configure(sink.address)
        await relay.start()
        async with await Client.open(relay.port) as client:
            assert "SMTPUTF8" not in client.extensions
            assert "DSN" not in client.extensions
            assert int(client.extensions["SIZE"]) <= 1_000_000
            assert (await client.say("MAIL FROM:<a@example.org> SMTPUTF8")).kind == 5
            assert (await client.message(MESSAGE)).code == 250
        assert sink.complaints == []


async def test_hundreds_of_clients_at_once_and_each_its_own_message(relay: Relay):
    async with UpstreamSink() as sink:
        relay.configure(sink.address, limits={"connections_per_client": 500})
        await relay.start()

        async def one(number: int) -> int:
            async with await Client.open(relay.port) as client:
                try:
                    return (await client.message(MESSAGE, f"n{number}@example.org")).code
                except HangUpError:
                    return 0

        codes = await asyncio.gather(*(one(number) for number in range(200)))
        assert set(codes) == {250}
        assert sorted(sunk.sender for sunk in sink.messages) == sorted(
            f"n{number}@example.org" for number in range(200)
        )
