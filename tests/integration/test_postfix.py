"""A real Postfix behind relayproxy, in front of it, and around it."""

import asyncio
import smtplib
import subprocess

import pytest
from tests.servers.client import Client
from tests.servers.compare import relays_named, trace_above
from tests.servers.process import need, program
from tests.servers.relay import Relay

from relayproxy.testing.upstream import Capabilities, UpstreamSink

pytestmark = pytest.mark.servers

HEAD = b"From: a@example.org\r\nTo: ana@example.net\r\nDate: Tue, 24 Nov 2026 08:00:00 +0000\r\n"
AWKWARD = (
    HEAD + b"Subject: odd\r\n  folds\r\n\tof two kinds\r\nx-LONG: " + b"word " * 180 + b"\r\n\r\n"
    b".a dot\r\n..two\r\n.\tdot and tab\r\n\r\n" + bytes(range(128, 256)) + b"\r\n" + b"l" * 990 + b"\r\n"
    b"trailing blanks  \t\r\nFrom here\r\n\x01\x1b[0m\x7f\r\n\r\n\r\n"
)


async def _delivered(postfix, user: str, count: int) -> list[bytes]:
    """The mailbox, once `count` messages are in it."""
    await postfix.until_logged("status=sent", count)
    found = postfix.delivered(user)
    assert len(found) == count
    return found


async def _run(*command: str, data: bytes = b"") -> str:
    """Run a program; fail with its output when it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(data), 60)
    assert process.returncode == 0, output.decode("utf-8", "replace")
    return output.decode("utf-8", "replace")


async def test_bytes_arrive_in_the_maildir_as_they_were_sent(relay: Relay, start_postfix):
    postfix = await start_postfix()
    relay.configure(f"127.0.0.1:{postfix.port}")
    await relay.start()
    async with await Client.open(relay.port) as client:
        answer = await client.message(AWKWARD, recipients=("ana@example.net",), options="BODY=8BITMIME")
    assert answer.code == 250
    assert "queued as" in answer.text  # Postfix's own words
    (received,) = await _delivered(postfix, "ana", 1)
    trace = trace_above(received, AWKWARD)
    assert relays_named(trace) == 1


async def test_swaks_and_smtplib_send_through(relay: Relay, start_postfix):
    need("swaks", root=False)
    postfix = await start_postfix()
    relay.configure(f"127.0.0.1:{postfix.port}")
    await relay.start()
    message = HEAD + b"Subject: swaks\r\n\r\n.hello\r\n"
    await _run(
        *("swaks", "--server", f"127.0.0.1:{relay.port}", "--from", "a@example.org"),
        *("--to", "ana@example.net,bob@example.net", "--data", "-", "--pipeline"),
        data=message.replace(b"\r\n", b"\n"),
    )

    def by_smtplib() -> dict[str, tuple[int, bytes]]:
        with smtplib.SMTP("127.0.0.1", relay.port) as smtp:
            return smtp.sendmail("a@example.org", ["ana@example.net", "nobody@example.net"], message)

    refused = await asyncio.to_thread(by_smtplib)
    assert list(refused) == ["nobody@example.net"]
    assert refused["nobody@example.net"][0] == 550
    assert b"User unknown in virtual mailbox table" in refused["nobody@example.net"][1]
    await postfix.until_logged("status=sent", 3)
    assert [len(postfix.delivered(user)) for user in ("ana", "bob")] == [2, 1]
    swaks, smtplib_ = postfix.delivered("ana")
    # swaks ends what it is given with a line end of its own.
    assert trace_above(swaks, message + b"\r\n" if swaks.endswith(b"\r\n\r\n") else message)
    assert trace_above(smtplib_, message)


async def test_smtp_source_sends_many_in_parallel(relay: Relay, start_postfix):
    need("smtp-source")
    postfix = await start_postfix()
    relay.configure(f"127.0.0.1:{postfix.port}")
    await relay.start()
    source = program("smtp-source")
    shared = ("-c", "-l", "4096", "-f", "a@example.org", "-t", "ana@example.net", f"127.0.0.1:{relay.port}")
    await _run(source, "-s", "5", "-m", "60", *shared)  # a connection for each message
    await _run(source, "-d", "-s", "3", "-m", "40", *shared)  # connections that stay
    assert len(await _delivered(postfix, "ana", 100)) == 100


async def test_a_postfix_with_another_around_it_as_before_queue_filter(relay: Relay, start_postfix):
    postfix = await start_postfix(
        smtpd_options={"smtpd_proxy_filter": f"127.0.0.1:{relay.port}", "smtpd_proxy_timeout": "30s"},
        services={
            "reinject": {
                "smtpd_authorized_xforward_hosts": "127.0.0.1/32",
                "smtpd_recipient_restrictions": "check_recipient_access "
                "inline:{{ bob@example.net = 554 5.7.9 Bob is on leave }}, permit_mynetworks, reject",
                "syslog_name": "reinject",
            }
        },
    )
    relay.configure(
        "unused",
        listeners=[
            {
                "name": "filter",
                "listen": f"127.0.0.1:{relay.port}",
                "xforward": {"networks": ["127.0.0.1/32"]},
            }
        ],
        relay={"networks": ["127.0.0.0/8"]},
        upstreams={
            "reinject": {
                "address": f"127.0.0.1:{postfix.port_of('reinject')}",
                "send_client": "xforward",
            }
        },
    )
    await relay.start()
    async with await Client.open(postfix.port, source="127.0.0.9") as client:
        for number in range(3):
            message = AWKWARD + b"number %d\r\n" % number
            answer = await client.message(message, recipients=("ana@example.net",))
            assert answer.code == 250, answer
        mail, rcpt = await client.envelope(recipients=("bob@example.net",))
        assert (mail.code, rcpt.code, rcpt.enhanced) == (250, 554, "5.7.9")
        assert "Bob is on leave" in rcpt.text
    received = sorted(await _delivered(postfix, "ana", 3), key=lambda message: message[-12:])
    for number, message in enumerate(received):
        trace = trace_above(message, AWKWARD + b"number %d\r\n" % number)
        assert relays_named(trace) == 1
    # The reinjecting side knows the real client: XFORWARD went in and out.
    assert "client=unknown[127.0.0.9]" in "".join(
        line for line in postfix.log.splitlines() if "reinject/smtpd" in line
    )


async def test_postfix_as_the_client_with_all_that_esmtp_has(relay: Relay, start_postfix, certificates):
    capabilities = Capabilities(dsn=True, chunking=True, starttls=certificates.server_context())
    async with UpstreamSink(capabilities, hostname="localhost") as sink:
        relay.configure(
            sink.address,
            listeners=[
                {
                    "name": "main",
                    "listen": f"127.0.0.1:{relay.port}",
                    "tls": {"cert": str(certificates.server), "key": str(certificates.server_key)},
                }
            ],
            upstreams={"sink": {"address": sink.address, "tls": "verify", "ca": str(certificates.ca)}},
        )
        await relay.start()
        postfix = await start_postfix(
            settings={
                "relayhost": f"[127.0.0.1]:{relay.port}",
                "virtual_mailbox_domains": "",
                "smtp_tls_security_level": "encrypt",
                "smtp_tls_CAfile": str(certificates.ca),
                "smtp_tls_loglevel": "1",
                "smtp_line_length_limit": "0",
            }
        )
        async with await Client.open(postfix.port) as client:
            await client.say("MAIL FROM:<a@example.org> BODY=8BITMIME RET=HDRS ENVID=Q-1+2B")
            await client.say("RCPT TO:<B@example.com> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Orig@example.com")
            await client.say("RCPT TO:<c@example.com> NOTIFY=NEVER")
            assert (await client.data(AWKWARD)).code == 250
        await sink.until_messages(1, 30)
        await postfix.until_logged("status=sent", 2)
        (sunk,) = sink.messages
        assert sink.complaints == []
    trace = trace_above(sunk.content, AWKWARD)
    assert relays_named(trace) == 1
    assert b"with ESMTPS" in trace.partition(b";")[0]
    assert sunk.peer.tls
    assert b" BODY=8BITMIME" in sunk.mail
    assert b" RET=HDRS" in sunk.mail
    assert b" ENVID=Q-1+2B" in sunk.mail
    assert set(sunk.rcpts) == {
        b"RCPT TO:<B@example.com> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Orig@example.com",
        b"RCPT TO:<c@example.com> NOTIFY=NEVER ORCPT=rfc822;c@example.com",
    }
    assert "Trusted TLS connection established to 127.0.0.1" in postfix.log


async def test_postfix_hands_on_an_internationalised_address(relay: Relay, start_postfix):
    async with UpstreamSink() as sink:
        relay.configure(sink.address)
        await relay.start()
        postfix = await start_postfix(
            settings={"relayhost": f"[127.0.0.1]:{relay.port}", "virtual_mailbox_domains": ""}
        )
        message = HEAD + "Subject: grüße\r\n\r\ntext\r\n".encode()
        async with await Client.open(postfix.port) as client:
            await client.say("MAIL FROM:<jörg@exämple.org> SMTPUTF8 BODY=8BITMIME")
            await client.say("RCPT TO:<δοκιμή@example.com>")
            assert (await client.data(message)).code == 250
        await sink.until_messages(1, 30)
        (sunk,) = sink.messages
        assert sink.complaints == []
    assert sunk.sender.startswith("jörg@")
    assert sunk.recipients == ("δοκιμή@example.com",)
    assert b" SMTPUTF8" in sunk.mail
    trace_above(sunk.content, message)


async def test_a_refusal_of_the_upstream_reaches_postfix_word_for_word(relay: Relay, start_postfix):
    refusals = {"no@example.com": b"550-5.1.1 No such person\r\n550 5.1.1 anywhere near here\r\n"}
    async with UpstreamSink(refusals=refusals) as sink:
        relay.configure(sink.address)
        await relay.start()
        postfix = await start_postfix(
            settings={"relayhost": f"[127.0.0.1]:{relay.port}", "virtual_mailbox_domains": ""}
        )
        async with await Client.open(postfix.port) as client:
            await client.message(AWKWARD, recipients=("no@example.com", "yes@example.com"))
        await postfix.until_logged("status=bounced")
        await sink.until_messages(1, 30)
        assert sink.messages[0].recipients == ("yes@example.com",)
    bounced = next(line for line in postfix.log.splitlines() if "status=bounced" in line)
    assert "dsn=5.1.1" in bounced
    assert "550-5.1.1 No such person" in bounced
    assert "anywhere near here" in bounced
