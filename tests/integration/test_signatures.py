"""Signatures across implementations: relayproxy's in OpenDKIM and Rspamd, theirs in relayproxy. DNS is an unbound."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.servers.authentication import CLIENT, DOMAIN, FORWARDER, Authentication, results
from tests.servers.client import Client
from tests.servers.compare import trace_above
from tests.servers.relay import Relay, a_relay
from tests.servers.rspamd import SIGNS_FOR

from relayproxy.testing.upstream import UpstreamSink

pytestmark = pytest.mark.servers

HEAD = (
    b"From: Ana <a@example.org>\r\nTo: u@example.net\r\nDate: Tue, 24 Nov 2026 08:00:00 +0000\r\n"
    b"Message-ID: <1@example.org>\r\n"
)
LETTERS = {
    "plain": HEAD + b"Subject: plain\r\n\r\nHello.\r\n",
    "empty body": HEAD + b"Subject: nothing\r\n\r\n",
    "only blank lines": HEAD + b"Subject: blank\r\n\r\n \t\r\n\r\n\t\r\n\r\n",
    "blanks and folds": (
        HEAD + b"subject :  folded\r\n\t twice  \r\n  over\r\nX-Empty:\r\n\r\n"
        b"two  blanks\t and a tab \t\r\n \r\n  indented\r\ntrailing   \r\n\r\n\r\n"
    ),
    "dots": HEAD + b"Subject: dots\r\n\r\n.\r\n..\r\n.a\r\n. b\r\nFrom here\r\n",
    "eight bits": HEAD
    + "Subject: grüße\r\n\r\nüber\xa0alles\r\n".encode()
    + bytes(range(128, 256))
    + b"\r\n",
    "long lines": HEAD + b"Subject: " + b"word " * 150 + b"\r\n\r\n" + b"l" * 990 + b"\r\n",
    "no subject, two To": HEAD + b"To: second@example.net\r\n\r\nx\r\n",
}
# Rspamd 3.4 keeps lines of blanks at the end of a relaxed body (its issue 5590), and reads h= in another way where a
# field occurs twice; OpenDKIM agrees with us about both.
FOR_RSPAMD = {
    name: letter for name, letter in LETTERS.items() if name not in ("only blank lines", "no subject, two To")
}
SIGNERS = ("opendkim-relaxed", "opendkim-mixed", "opendkim-simple", "opendkim-ed25519", "rspamd")


@asynccontextmanager
async def _signing(authentication: Authentication, milter: str) -> AsyncIterator[Relay]:
    """A relayproxy that signs and hands on to a port of the Postfix."""
    async with a_relay() as relay:
        relay.configure(
            authentication.address(milter), pipeline=[{"dkim_sign": {"keys": str(authentication.keys)}}]
        )
        await relay.start()
        yield relay


@asynccontextmanager
async def _verifying(authentication: Authentication, upstream: str, **arc: Any) -> AsyncIterator[Relay]:
    """A relayproxy that checks mail for example.net with the DNS of the session."""
    async with a_relay() as relay:
        relay.configure(
            upstream,
            relay={"domains": ["example.net"]},
            dns={"servers": [f"127.0.0.1:{authentication.unbound.port}"]},
            pipeline=["spf", "dkim_verify", {"arc": arc}, "dmarc"],
        )
        await relay.start()
        yield relay


async def _send(relay: Relay, message: bytes, user: str = "u", source: str = CLIENT) -> None:
    async with await Client.open(relay.port, source=source) as client:
        options = "" if message.isascii() else "BODY=8BITMIME"
        answer = await client.message(message, f"a@{DOMAIN}", (f"{user}@example.net",), options)
    assert answer.code == 250, answer


async def _sent_through(relay: Relay, authentication: Authentication, letter: bytes, source: str) -> bytes:
    """Send a letter through a relayproxy in front of the Postfix; return what arrived."""
    user = authentication.new_mailbox()
    await _send(relay, letter, user, source)
    return await authentication.arrived(user)


async def test_opendkim_verifies_what_we_sign(authentication: Authentication):
    async with _signing(authentication, "opendkim-verifies") as relay:
        for name, letter in LETTERS.items():
            arrived = await _sent_through(relay, authentication, letter, "127.0.0.1")
            found = results(arrived, "opendkim.test", "dkim")
            assert [result for result, _ in found] == ["pass", "pass"], (name, arrived)
            assert {props["header.a"] for _, props in found} == {"rsa-sha256", "ed25519-sha256"}
            assert {props["header.s"] for _, props in found} == {"rsa", "ed"}


async def test_opendkim_finds_a_change_in_what_we_signed(authentication: Authentication):
    async with _signing(authentication, "opendkim-verifies") as relay:
        signed = await _sent_through(relay, authentication, LETTERS["plain"], "127.0.0.1")
    for changed in (
        signed.replace(b"Hello.", b"Hallo."),
        signed.replace(b"Subject: plain", b"Subject: plane"),
        signed.replace(b"Subject: plain", b"Reply-To: eve@example.com\r\nSubject: plain"),
    ):
        arrived = await authentication.through("opendkim-verifies", changed)
        found = [result for result, _ in results(arrived, "opendkim.test", "dkim")]
        # The field of the first passage is below, and was true when it was written.
        assert found[:2] == ["fail", "fail"], arrived


async def test_rspamd_verifies_what_we_sign(authentication: Authentication):
    async with _signing(authentication, "rspamd") as relay:
        for name, letter in FOR_RSPAMD.items():
            arrived = await _sent_through(relay, authentication, letter, "127.0.0.1")
            found = results(arrived, "postfix.test", "dkim")
            assert [result for result, _ in found] == ["pass", "pass"], (name, arrived)
            ((dmarc, _),) = results(arrived, "postfix.test", "dmarc")
            assert dmarc == "pass"
        changed = arrived.replace(b"\r\n\r\n", b"\r\n\r\nMore.\r\n")
        arrived = await authentication.through("rspamd", changed)
        assert [result for result, _ in results(arrived, "postfix.test", "dkim")] == ["fail", "fail"]


@pytest.mark.parametrize("signer", SIGNERS)
async def test_we_verify_what_others_sign(authentication: Authentication, signer: str):
    source, letters = (SIGNS_FOR, FOR_RSPAMD) if signer == "rspamd" else (CLIENT, LETTERS)
    async with UpstreamSink() as sink, _verifying(authentication, sink.address) as relay:
        for number, (name, letter) in enumerate(letters.items(), 1):
            signed = await authentication.through(signer, letter, source)
            await _send(relay, signed)
            await sink.until_messages(number, 30)
            received = sink.messages[-1].content
            trace_above(received, signed)
            ((dkim, props),) = results(received, "relay.test", "dkim")
            assert (dkim, props["header.d"]) == ("pass", DOMAIN), (name, received)
            assert results(received, "relay.test", "spf")[-1][0] == "pass"
            ((dmarc, _),) = results(received, "relay.test", "dmarc")
            assert dmarc == "pass"


async def test_we_find_a_change_in_what_others_signed(authentication: Authentication):
    signed = await authentication.through("opendkim-relaxed", LETTERS["plain"])
    async with UpstreamSink() as sink, _verifying(authentication, sink.address) as relay:
        # From elsewhere, so that SPF doesn't vouch for it either.
        await _send(relay, signed.replace(b"Hello.", b"Hallo."), source="127.0.0.10")
        await sink.until_messages(1, 30)
        received = sink.messages[0].content
    assert [result for result, _ in results(received, "relay.test", "dkim")] == ["fail"]
    assert [result for result, _ in results(received, "relay.test", "dmarc")] == ["fail"]


async def test_rspamd_verifies_what_we_seal(authentication: Authentication):
    signed = await authentication.through("opendkim-relaxed", LETTERS["blanks and folds"])
    seal = {
        "domain": FORWARDER,
        "selector": "arc",
        "key": str(authentication.keys.parent / f"{FORWARDER}.arc.pem"),
    }
    async with _verifying(authentication, authentication.address("rspamd"), seal=seal) as relay:
        arrived = await _sent_through(relay, authentication, signed, CLIENT)
    assert arrived.count(b"\r\nARC-Seal:") == 1
    ((arc, _),) = results(arrived, "postfix.test", "arc")
    assert arc == "pass", arrived


async def test_we_verify_what_rspamd_seals(authentication: Authentication):
    signed = await authentication.through("opendkim-relaxed", LETTERS["plain"])
    sealed = await authentication.through("rspamd-seals", signed)
    assert sealed.count(b"\r\nARC-Seal:") == 1, sealed
    async with UpstreamSink() as sink, _verifying(authentication, sink.address) as relay:
        await _send(relay, sealed)
        await sink.until_messages(1, 30)
        received = sink.messages[0].content
    ((arc, _),) = results(received, "relay.test", "arc")
    assert arc == "pass", received
