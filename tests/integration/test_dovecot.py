"""A real Dovecot behind relayproxy by LMTP; what it stored is read back by IMAP and POP3."""

import asyncio
import imaplib
import poplib
from pathlib import Path

import pytest
from tests.servers.client import Client
from tests.servers.compare import relays_named, trace_above
from tests.servers.dovecot import PASSWORD, Dovecot
from tests.servers.relay import Relay
from tests.servers.tls import Certificates

pytestmark = pytest.mark.servers

MESSAGE = (
    b"From: a@example.org\r\nTo: ana@example.net\r\nSubject: read me back\r\n  folded\r\n\r\n"
    b".dots\r\n..and dots\r\n\r\n" + bytes(range(160, 256)) + b"\r\n" + b"long " * 190 + b"\r\nend\r\n"
)


def _by_imap(dovecot: Dovecot, user: str) -> list[bytes]:
    imap = imaplib.IMAP4("127.0.0.1", dovecot.imap_port)
    imap.login(user, PASSWORD)
    imap.select(readonly=True)
    _, found = imap.search(None, "ALL")
    messages = [imap.fetch(number, "(BODY.PEEK[])")[1][0][1] for number in found[0].split()]
    imap.logout()
    return messages


def _by_pop3(dovecot: Dovecot, user: str) -> list[bytes]:
    pop3 = poplib.POP3("127.0.0.1", dovecot.pop3_port)
    pop3.user(user)
    pop3.pass_(PASSWORD)
    count, _ = pop3.stat()
    messages = [b"\r\n".join(pop3.retr(number + 1)[1]) + b"\r\n" for number in range(count)]
    pop3.quit()
    return messages


def _upstream(address: str) -> dict[str, object]:
    return {"mailstore": {"address": address, "protocol": "lmtp"}}


@pytest.mark.parametrize("over", ["tcp", "unix"])
async def test_what_was_sent_is_read_back_by_imap_and_pop3(relay: Relay, start_dovecot, over: str):
    dovecot = await start_dovecot()
    address = f"127.0.0.1:{dovecot.lmtp_port}" if over == "tcp" else f"unix:{dovecot.lmtp_socket}"
    relay.configure(address, upstreams=_upstream(address))
    await relay.start()
    async with await Client.open(relay.port) as client:
        answer = await client.message(MESSAGE, recipients=("ana@example.net",), options="BODY=8BITMIME")
    assert answer.code == 250
    (by_imap,) = await asyncio.to_thread(_by_imap, dovecot, "ana")
    (by_pop3,) = await asyncio.to_thread(_by_pop3, dovecot, "ana")
    assert by_imap == by_pop3
    assert relays_named(trace_above(by_imap, MESSAGE)) == 1


@pytest.mark.parametrize("policy", ["opportunistic", "required", "verify"])
async def test_starttls_over_lmtp(relay: Relay, start_dovecot, certificates: Certificates, policy: str):
    """Dovecot notes in Received what it was spoken to over."""
    shown = f"ssl = yes\nssl_cert = <{certificates.server}\nssl_key = <{certificates.server_key}\n"
    dovecot = await start_dovecot(extra=shown)
    upstream = {"address": f"127.0.0.1:{dovecot.lmtp_port}", "protocol": "lmtp", "tls": policy}
    relay.configure("", upstreams={"mailstore": upstream | {"ca": str(certificates.ca)}})
    await relay.start()
    async with await Client.open(relay.port) as client:
        for _ in range(2):
            answer = await client.message(MESSAGE, recipients=("ana@example.net",), options="BODY=8BITMIME")
            assert answer.code == 250
    stored = await asyncio.to_thread(_by_imap, dovecot, "ana")
    assert len(stored) == 2
    assert all(b"(using TLSv1." in message and b"with LMTPS" in message for message in stored)


async def test_an_unknown_user_is_refused_at_rcpt_with_dovecots_own_words(relay: Relay, start_dovecot):
    dovecot = await start_dovecot()
    address = f"127.0.0.1:{dovecot.lmtp_port}"
    relay.configure(address, upstreams=_upstream(address))
    await relay.start()
    async with await Client.open(dovecot.lmtp_port, helo="") as direct:
        await direct.ehlo(verb="LHLO")
        own_words = (await direct.envelope(recipients=("nobody@example.net",)))[1]
    async with await Client.open(relay.port) as client:
        answers = await client.envelope(recipients=("nobody@example.net", "bob@example.net"))
        assert [answer.code for answer in answers] == [250, 550, 250]
        assert answers[1] == own_words
        assert (await client.data(MESSAGE)).code == 250
    assert len(await asyncio.to_thread(_by_imap, dovecot, "bob")) == 1


async def test_lmtp_in_and_out_answers_for_each_recipient(relay: Relay, start_dovecot, short_folder: Path):
    dovecot = await start_dovecot(
        extra="plugin {\n  quota = maildir:User quota\n  quota_rule = *:bytes=50K\n}\n"
        "mail_plugins = quota\nprotocol lmtp {\n  mail_plugins = quota\n}\n"
    )
    address = f"unix:{dovecot.lmtp_socket}"
    way_in = short_folder / "lmtp"
    relay.configure(
        address,
        listeners=[
            {"name": "main", "listen": f"127.0.0.1:{relay.port}", "protocol": "lmtp"},
            {"name": "socket", "listen": f"unix:{way_in}", "protocol": "lmtp"},
        ],
        upstreams=_upstream(address),
    )
    await relay.start()
    large = MESSAGE + (b"x" * 70 + b"\r\n") * 500
    async with await Client.open(relay.port, helo="") as client:
        await client.ehlo(verb="LHLO")
        await client.envelope(recipients=("ana@example.net",))
        assert (await client.data(large)).code == 250
        # Now the quota of ana leaves no room for a second one, and that of bob does.
        await client.envelope(recipients=("ana@example.net", "bob@example.net"))
        replies = [await client.data(large), await client.read()]
    assert [reply.kind for reply in replies] == [5, 2]
    assert "uota" in replies[0].text
    assert [len(await asyncio.to_thread(_by_imap, dovecot, user)) for user in ("ana", "bob")] == [1, 1]
