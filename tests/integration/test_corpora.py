"""What no check and no relay may do to a message, with every message of the conformance suites."""

import pytest
from tests.corpora import messages
from tests.servers.client import Client
from tests.servers.compare import relays_named, trace_above
from tests.servers.relay import a_relay

from relayproxy.builtin.arc import Arc
from relayproxy.builtin.compliance import Compliance
from relayproxy.builtin.dkim_verify import DkimVerify
from relayproxy.builtin.dmarc import Dmarc, DmarcSettings
from relayproxy.builtin.iprev import Iprev
from relayproxy.builtin.spf import SpfPlugin
from relayproxy.core.entry import When
from relayproxy.mailauth.authres import forged
from relayproxy.model.edits import apply_to_message
from relayproxy.model.message import Message
from relayproxy.testing.session import SessionDriver, entry_for
from relayproxy.testing.upstream import UpstreamSink

MESSAGES = messages()


def without_forgeries(raw, hostname):
    message = Message.from_bytes(raw)
    return bytes(apply_to_message(message, forged(message, hostname)))


def is_whole(raw):
    """Whether the core takes it: no NUL, no CR or LF by itself."""
    return b"\0" not in raw and raw.count(b"\r") == raw.count(b"\n") == raw.count(b"\r\n")


async def test_every_message_is_relayed_octet_for_octet():
    async with UpstreamSink() as sink, a_relay() as relay:
        relay.configure(sink.address)
        await relay.start()
        async with await Client.open(relay.port) as client:
            await client.say("EHLO client.example.org")
            for number, parameter in enumerate(MESSAGES):
                (raw,) = parameter.values
                if parameter.marks:
                    pytest.skip(parameter.marks[0].args[0])
                sink.arrived.clear()
                await client.envelope(f"n{number}@example.org", options="BODY=8BITMIME")
                reply = await client.data(raw)
                if not is_whole(raw):
                    assert (reply.code, reply.enhanced) == (550, "5.5.2"), parameter.id
                    continue
                assert reply.code == 250, (parameter.id, reply)
                expected = without_forgeries(raw, "relay.test")
                assert relays_named(trace_above(sink.messages[-1].content, expected)) == 1, parameter.id


def inbound():
    """Every check of incoming mail, none of which may refuse."""
    return [
        Iprev,
        SpfPlugin,
        DkimVerify,
        Arc,
        Dmarc(DmarcSettings(bad_from="accept")),
        entry_for(Compliance, when=When()),
    ]


async def assert_untouched(talk, raw):
    delivery = await talk.deliver(raw)
    assert delivery.reply.ok, delivery.reply
    assert [step for step in delivery.mail.trace if step.error] == []
    assert delivery.sent.data.endswith(without_forgeries(raw, "mx.example.net"))


@pytest.mark.parametrize("raw", MESSAGES)
async def test_every_check_survives_every_message_and_leaves_it_alone(raw):
    await assert_untouched(SessionDriver(*inbound()), raw)


@pytest.mark.parametrize("levels", [50, 2000])
async def test_a_message_of_messages_within_messages_is_no_more_than_octets(levels):
    """Measured with the standard library: a RecursionError at 2,000 levels."""
    parts = (b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(levels))
    await assert_untouched(SessionDriver(*inbound()), b"From: a@example.org\r\n" + b"".join(parts))
