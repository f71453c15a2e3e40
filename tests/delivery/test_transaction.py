"""Transactions with a next hop: each reply for itself, pipelined or not; trouble at any step; connections left usable."""

import asyncio
import ssl
from itertools import product

import pytest
from tests.delivery.harness import KINDS, LEAD, MESSAGE, THREE, a_client, a_hop, an_envelope, codes

from relayproxy.delivery.settings import Timeouts
from relayproxy.model.envelope import Recipient
from relayproxy.model.reply import Reply
from relayproxy.testing.mail import make_address
from relayproxy.testing.upstream import (
    NONSENSE,
    Capabilities,
    Disconnect,
    Fault,
    Reset,
    Say,
    Stall,
    Step,
    Trickle,
    UpstreamSink,
    answer,
)


async def test_every_recipient_gets_its_own_answer(capabilities: Capabilities):
    async with UpstreamSink(capabilities) as sink, a_hop(sink) as hop:
        sink.refusals = {
            "c@example.net": b"550-5.1.1 no\r\n550 5.1.1 such user\r\n",
            "d@example.net": b"450 busy\r\n",
        }
        heard, final = await hop.deliver(envelope=THREE)
        assert heard == [
            Reply(250, "2.1.5", "Recipient ok"),
            Reply(550, "5.1.1", "no\nsuch user"),
            Reply(450, "", "busy"),
        ]
        assert final == [Reply(250, "2.0.0", "Sunk as 1")]
        assert sink.messages[0].recipients == ("b@example.net",)
        assert sink.messages[0].content == LEAD + bytes(MESSAGE)
        assert sink.messages[0].chunked is capabilities.chunking
        assert sink.complaints == []
        assert hop.state("idle") == 1


async def test_recipients_one_after_the_other_are_one_transaction(capabilities: Capabilities):
    async with UpstreamSink(capabilities) as sink, a_hop(sink) as hop:
        transaction = hop.begin(envelope=THREE)
        for recipient in THREE.recipients:
            assert codes(await transaction.recipients([recipient])) == [250]
        assert codes(await transaction.send(LEAD, MESSAGE)) == [250]
        assert sink.messages[0].recipients == tuple(str(r.address) for r in THREE.recipients)
        assert sink.reached[Step.MAIL] == 1
        assert sink.complaints == []


async def test_one_connection_serves_many_transactions(capabilities: Capabilities):
    async with UpstreamSink(capabilities) as sink, a_hop(sink) as hop:
        for number in range(5):
            await hop.deliver(a_client(number))
        assert (sink.sessions, sink.reached[Step.RSET], len(sink.messages)) == (1, 4, 5)
        assert sink.complaints == []


async def test_what_mail_and_rcpt_say(capabilities: Capabilities):
    """Only what the next hop offers is said; what it lacks is left out, as the client was never offered it."""
    recipient = Recipient(make_address("b@example.net"), ("FAILURE", "DELAY"), "rfc822;B@example.net")
    envelope = an_envelope(ret="HDRS", envid="QQ+3D", body="8BITMIME")
    for dsn in (True, False):
        offered = Capabilities(pipelining=capabilities.pipelining, chunking=capabilities.chunking, dsn=dsn)
        async with UpstreamSink(offered) as sink, a_hop(sink) as hop:
            transaction = hop.begin(envelope=envelope, size=1234)
            await transaction.recipients([recipient])
            await transaction.send(LEAD, MESSAGE)
            more = b" RET=HDRS ENVID=QQ+3D" if dsn else b""
            assert sink.messages[0].mail == b"MAIL FROM:<a@example.org> SIZE=1234 BODY=8BITMIME" + more
            more = b" NOTIFY=FAILURE,DELAY ORCPT=rfc822;B@example.net" if dsn else b""
            assert sink.messages[0].rcpts == (b"RCPT TO:<b@example.net>" + more,)
            assert sink.complaints == []


async def test_a_refused_mail_is_every_recipients_answer_and_keeps_the_connection(capabilities: Capabilities):
    async with UpstreamSink(capabilities) as sink, a_hop(sink) as hop:
        for said, wanted in (
            (answer(550, "5.7.1 no"), Reply(550, "5.7.1", "no")),
            (answer(451, "4.3.0 later"), Reply(451, "4.3.0", "later")),
        ):
            sink.plan.add(Fault(Step.MAIL, said))
            transaction = hop.begin(envelope=THREE)
            assert await transaction.recipients(THREE.recipients) == [wanted] * 3
            assert await transaction.recipients(THREE.recipients[:1]) == [wanted]
            assert await transaction.send(LEAD, MESSAGE) == [wanted]
            transaction.abort()
        assert codes((await hop.deliver())[1]) == [250]
        assert sink.sessions == 1


async def test_what_was_said_before_the_connection_went_is_passed_on(capabilities: Capabilities):
    """A refusal is the next hop's own word; only the others hear that it was lost."""
    lost = Reply(451, "4.4.1", "Lost upstream up, try again later")
    async with UpstreamSink(capabilities) as sink, a_hop(sink) as hop:
        for _ in range(2):
            sink.plan.add(Fault(Step.RCPT, answer(550, "5.1.1 no"), nth=0))
            sink.plan.add(Fault(Step.RCPT, Disconnect(), nth=2))
            transaction = hop.begin(envelope=THREE)
            heard = await transaction.recipients(THREE.recipients)
            assert heard == [Reply(550, "5.1.1", "no"), lost, lost]
            assert await transaction.send(LEAD, MESSAGE) == [lost]
            sink.plan.add(Fault(Step.MAIL, answer(550, "5.7.1 no", close=True)))
            transaction = hop.begin(envelope=THREE)
            assert await transaction.recipients(THREE.recipients) == [Reply(550, "5.7.1", "no")] * 3
            assert await transaction.send(LEAD, MESSAGE) == [Reply(550, "5.7.1", "no")]
            # The second time on a connection that was kept.
            assert codes((await hop.deliver())[1]) == [250]


async def test_and_so_it_is_when_they_are_asked_in_two_turns(capabilities: Capabilities):
    lost = Reply(451, "4.4.1", "Lost upstream up, try again later")
    async with UpstreamSink(capabilities) as sink, a_hop(sink) as hop:
        sink.plan.add(Fault(Step.RCPT, answer(550, "5.1.1 no"), nth=1))
        sink.plan.add(Fault(Step.RCPT, Disconnect(), nth=2))
        transaction = hop.begin(envelope=THREE)
        assert codes(await transaction.recipients(THREE.recipients[:1])) == [250]
        assert await transaction.recipients(THREE.recipients[1:]) == [Reply(550, "5.1.1", "no"), lost]


async def test_a_refused_data_keeps_the_connection():
    async with UpstreamSink() as sink, a_hop(sink) as hop:
        for said in (answer(554, "5.6.0 no"), answer(451, "4.3.0 later")):
            sink.plan.add(Fault(Step.DATA, said))
            _, final = await hop.deliver()
            assert codes(final) == [int(said.data[:3])]
        assert codes((await hop.deliver())[1]) == [250]
        assert (sink.sessions, len(sink.arrived)) == (1, 1)


async def test_a_refused_message_keeps_the_connection(capabilities: Capabilities):
    async with UpstreamSink(capabilities) as sink, a_hop(sink) as hop:
        for said in (answer(554, "5.6.0 no", "5.6.0 taste"), answer(451, "4.3.0 later")):
            sink.plan.add(Fault(Step.DOT, said))
            _, final = await hop.deliver()
            assert codes(final) == [int(said.data[:3])]
        assert final == [Reply(451, "4.3.0", "later")]
        assert codes((await hop.deliver())[1]) == [250]
        assert sink.sessions == 1


@pytest.mark.parametrize("step", [Step.MAIL, Step.RCPT, Step.DATA, Step.DOT])
async def test_a_421_is_passed_on_and_the_connection_is_not_used_again(step: Step):
    async with UpstreamSink() as sink, a_hop(sink) as hop:
        sink.plan.add(Fault(step, answer(421, "4.3.2 going down", close=True)))
        heard, final = await hop.deliver()
        assert (final or heard) == [Reply(421, "4.3.2", "going down")]
        assert codes((await hop.deliver())[1]) == [250]
        assert sink.sessions == 2
        assert len(sink.messages) == 1


ANSWERED = {
    Step.MAIL: "recipients",
    Step.RCPT: "recipients",
    Step.DATA: "send",
    Step.CONTENT: "send",
    Step.DOT: "send",
}
TROUBLE = {
    "disconnect": Disconnect(),
    "reset": Reset(),
    "half a reply": Say(b"250 o", close=True),
    "354": answer(354, "go"),
    **{f"nonsense: {name}": said for name, said in NONSENSE.items()},
}


def makes_sense(kind: str, step: Step, what: str) -> bool:
    """Nothing is said in the middle of content, 354 is the answer to DATA, and with BDAT there is no DATA."""
    if step is Step.CONTENT:
        return not isinstance(TROUBLE[what], Say)
    return step is not Step.DATA or (what != "354" and not KINDS[kind].chunking)


@pytest.mark.parametrize(
    ("kind", "step", "what"), [case for case in product(KINDS, ANSWERED, TROUBLE) if makes_sense(*case)]
)
async def test_trouble_at_any_step_is_a_451(kind: str, step: Step, what: str):
    """Never a 5yz that nobody said, never a 250, and the connection is not used again."""
    async with UpstreamSink(KINDS[kind]) as sink, a_hop(sink) as hop:
        sink.plan.add(Fault(step, TROUBLE[what], after=10))
        heard, final = await hop.deliver()
        if ANSWERED[step] == "recipients":
            assert heard == [Reply(451, "4.4.1", "Lost upstream up, try again later")]
        else:
            assert codes(heard) == [250]
            assert final == [Reply(451, "4.4.2", "Lost upstream up, try again later")]
            assert len(sink.messages) == 0 or step is Step.DOT
            assert bool(hop.events("in_doubt")) is (step in (Step.DOT, Step.CONTENT))
        sink.plan.clear()
        assert codes((await hop.deliver())[1]) == [250]
        assert sink.sessions == 2


@pytest.mark.parametrize("step", ANSWERED)
async def test_a_stall_ends_when_time_is_up(step: Step):
    quick = Timeouts(connect=5.0, command=0.1, data=0.1, final=0.1)
    async with UpstreamSink() as sink, a_hop(sink, timeouts=quick) as hop:
        sink.plan.add(Fault(step, Stall(), after=10))
        heard, final = await hop.deliver()
        assert codes(final or heard) == [451]
        sink.release()
        assert codes((await hop.deliver())[1]) == [250]
        assert sink.sessions == 2


async def test_replies_that_come_octet_by_octet(capabilities: Capabilities):
    async with UpstreamSink(capabilities) as sink, a_hop(sink) as hop:
        for step in (Step.MAIL, Step.RCPT, Step.DATA, Step.DOT, Step.RSET):
            sink.plan.add(Fault(step, Trickle(), times=0))
        for _ in range(2):
            heard, final = await hop.deliver(envelope=THREE)
            assert codes(heard) + codes(final) == [250, 250, 250, 250]
        assert sink.sessions == 1


class TestNeeds:
    async def test_smtputf8(self):
        envelope = an_envelope(sender="ä@example.org", smtputf8=True)
        async with UpstreamSink() as sink, a_hop(sink) as hop:
            assert codes((await hop.deliver(envelope=envelope))[1]) == [250]
            assert sink.messages[0].mail == "MAIL FROM:<ä@example.org> SMTPUTF8".encode()
        async with UpstreamSink(Capabilities(smtputf8=False)) as sink, a_hop(sink) as hop:
            heard, _ = await hop.deliver(envelope=envelope)
            assert heard == [Reply(451, "4.6.7", "The next hop does not take SMTPUTF8 now")]
            assert sink.reached[Step.MAIL] == 0
            assert hop.state("idle") == 1

    async def test_requiretls(self, certificates):
        envelope = an_envelope(requiretls=True)
        context = certificates.server_context()
        offered = Capabilities(requiretls=True, starttls=context)
        tls = {"tls": "verify", "tls_context": certificates.client_context()}
        async with UpstreamSink(offered, host="127.0.0.1") as sink, a_hop(sink, **tls) as hop:
            assert codes((await hop.deliver(envelope=envelope))[1]) == [250]
            assert b"REQUIRETLS" in sink.messages[0].mail
        blind = certificates.client_context()
        blind.check_hostname = False
        blind.verify_mode = ssl.CERT_NONE
        # Neither without TLS nor with somebody who may be anybody.
        for weak in ({}, {"tls": "required", "tls_context": blind}):
            async with UpstreamSink(offered) as sink, a_hop(sink, **weak) as hop:
                heard, _ = await hop.deliver(envelope=envelope)
                assert [(reply.code, reply.status) for reply in heard] == [(451, "4.7.10")]
                assert sink.reached[Step.MAIL] == 0
                assert "REQUIRETLS" not in hop.upstream.capabilities
        async with UpstreamSink(Capabilities(starttls=context)) as sink, a_hop(sink, **tls) as hop:
            heard, _ = await hop.deliver(envelope=envelope)
            assert [(reply.code, reply.status) for reply in heard] == [(451, "4.7.10")]
            assert sink.reached[Step.MAIL] == 0

    async def test_tls_onward(self, certificates):
        envelope = an_envelope(tls_onward=True)
        offered = Capabilities(starttls=certificates.server_context())
        tls = {"tls": "opportunistic", "tls_context": certificates.client_context()}
        async with UpstreamSink(offered, host="127.0.0.1") as sink, a_hop(sink, **tls) as hop:
            for _ in range(2):  # a new connection, and a kept one
                assert codes((await hop.deliver(envelope=envelope))[1]) == [250]
            assert b"REQUIRETLS" not in sink.messages[0].mail
        async with UpstreamSink() as sink, a_hop(sink) as hop:
            await hop.deliver()
            heard, _ = await hop.deliver(envelope=envelope)
            assert [(reply.code, reply.status) for reply in heard] == [(451, "4.7.10")]
            assert len(sink.messages) == sink.reached[Step.MAIL] == 1


class TestXforward:
    async def test_what_is_offered_is_said_before_mail(self):
        offered = Capabilities(xforward=("NAME", "ADDR", "PORT", "PROTO", "HELO", "SOURCE"))
        async with UpstreamSink(offered) as sink, a_hop(sink, send_client="xforward") as hop:
            await hop.deliver(a_client(7, ptr=""))
            await hop.deliver(a_client(8, ip="2001:db8::8", helo="c8 <x>"))
            first, second = (dict(sunk.peer.xforward) for sunk in sink.messages)
            assert first == {
                b"NAME": b"[UNAVAILABLE]",
                b"ADDR": b"192.0.2.7",
                b"PORT": b"40007",
                b"PROTO": b"ESMTP",
                b"HELO": b"c7.example",
                b"SOURCE": b"REMOTE",
            }
            assert second[b"ADDR"] == b"IPV6:2001:db8::8"
            assert second[b"HELO"] == b"c8+20<x>"
            assert sink.sessions == 1
            assert sink.complaints == []

    async def test_without_the_offer_nothing_is_said(self):
        async with UpstreamSink() as sink, a_hop(sink, send_client="xforward") as hop:
            assert codes((await hop.deliver())[1]) == [250]
            assert sink.complaints == []


class TestAbort:
    async def test_a_transaction_that_is_given_up_leaves_a_usable_connection(
        self, capabilities: Capabilities
    ):
        async with UpstreamSink(capabilities) as sink, a_hop(sink) as hop:
            transaction = hop.begin(envelope=THREE)
            await transaction.recipients(THREE.recipients)
            transaction.abort()
            transaction.abort()
            assert hop.state("idle") == 1
            gone = Reply(451, "4.3.0", "The transaction has ended, try again later")
            assert await transaction.recipients(THREE.recipients) == [gone] * 3
            assert await transaction.send(LEAD, MESSAGE) == [gone]
            assert codes((await hop.deliver())[1]) == [250]
            assert [sunk.recipients for sunk in sink.messages] == [("b@example.net",)]
            assert (sink.sessions, sink.complaints) == (1, [])

    async def test_one_that_never_began(self):
        async with UpstreamSink() as sink, a_hop(sink) as hop:
            hop.begin().abort()
            assert sink.sessions == 0

    async def test_while_an_answer_is_awaited(self):
        """A command without its reply: the connection is closed, never used again."""
        async with UpstreamSink() as sink, a_hop(sink) as hop:
            sink.plan.add(Fault(Step.RCPT, Stall()))
            transaction = hop.begin()
            asking = asyncio.create_task(transaction.recipients(an_envelope().recipients))
            await sink.until_reached(Step.RCPT)
            transaction.abort()
            assert codes(await asking) == [451]
            sink.release()
            assert codes((await hop.deliver())[1]) == [250]
            assert sink.sessions == 2

    async def test_while_a_connection_is_made(self):
        async with UpstreamSink() as sink, a_hop(sink) as hop:
            sink.plan.add(Fault(Step.EHLO, Stall()))
            transaction = hop.begin()
            asking = asyncio.create_task(transaction.recipients(an_envelope().recipients))
            await sink.until_reached(Step.EHLO)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            transaction.abort()
            sink.release()
            assert codes((await hop.deliver())[1]) == [250]
