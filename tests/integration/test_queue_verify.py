"""Recipients of strangers' mail are verified at a real Postfix before they are queued."""

import pytest
from tests.integration.test_queue import MESSAGE, configure, parts, send, until_empty
from tests.servers.compare import relays_named, trace_above
from tests.servers.process import wait_for
from tests.servers.relay import Relay

pytestmark = pytest.mark.servers

STRANGERS = {"domains": ["example.net"], "networks": []}


async def test_postfix_says_at_rcpt_whom_it_does_not_know(relay: Relay, start_postfix):
    postfix = await start_postfix()
    configure(relay, f"127.0.0.1:{postfix.port}", relay=STRANGERS)
    await relay.start()
    refused = await send(relay, recipients=("nobody@example.net",))
    assert (refused.code, refused.enhanced) == (550, "5.1.1")
    assert "nobody@example.net" in refused.text
    assert (await send(relay, recipients=("ana@example.net",))).code == 250
    await postfix.until_logged("status=sent")
    (received,) = postfix.delivered("ana")
    assert relays_named(trace_above(received, MESSAGE)) == 1
    await until_empty(relay)


async def test_a_postfix_that_will_not_tell_now_leaves_it_with_the_stranger(relay: Relay, start_postfix):
    postfix = await start_postfix(
        settings={"smtpd_recipient_restrictions": "defer_if_permit, reject_unauth_destination"}
    )
    configure(relay, f"127.0.0.1:{postfix.port}", relay=STRANGERS)
    await relay.start()
    heard = await send(relay, recipients=("ana@example.net",))
    assert (heard.code, heard.enhanced) == (451, "4.1.1")
    assert parts(relay) == []


async def test_what_postfix_took_at_rcpt_and_refuses_later_is_held(relay: Relay, start_postfix):
    postfix = await start_postfix(settings={"message_size_limit": "2000", "virtual_mailbox_limit": "0"})
    configure(relay, f"127.0.0.1:{postfix.port}", relay=STRANGERS)
    await relay.start()
    heard = await send(relay, recipients=("ana@example.net",), content=MESSAGE + b"0123456789\r\n" * 300)
    assert heard.code == 250
    await wait_for(lambda: [row[0] for row in parts(relay)] == ["held"], "a held message")
    assert "never verified" in parts(relay)[0][2]
