"""After the content: an envelope that is edited once more, and what the client hears then."""

import pytest
from tests.core.making import RAW, plugin

from relayproxy.api import AddRecipient, DropRecipient, Recipient, ReplaceRecipient, Reply, SetSender
from relayproxy.core.policy import ListenerPolicy
from relayproxy.testing.mail import make_address
from relayproxy.testing.session import SessionDriver, Standin

BOB, CLEO, EVE = (make_address(f"{name}@example.net") for name in ("b", "c", "eve"))


def editing(*edits, **options):
    return SessionDriver(plugin("editor", before_forward=lambda _self: edits), **options)


@pytest.mark.parametrize(
    ("edit", "sender", "recipients"),
    [
        (SetSender(EVE), "eve@example.net", ["b@example.net", "c@example.net"]),
        (ReplaceRecipient(BOB, EVE), "a@example.org", ["eve@example.net", "c@example.net"]),
        (DropRecipient(BOB), "a@example.org", ["c@example.net"]),
        (
            AddRecipient(Recipient(EVE)),
            "a@example.org",
            ["b@example.net", "c@example.net", "eve@example.net"],
        ),
    ],
)
async def test_an_envelope_that_is_edited_late_is_told_anew(edit, sender, recipients):
    driver = editing(edit)
    delivery = await driver.deliver(RAW, recipients=["b@example.net", "c@example.net"])
    assert delivery.reply.ok
    assert str(delivery.sent.envelope.sender) == sender
    assert [str(one.address) for one in delivery.sent.recipients] == recipients
    assert (len(driver.upstream.begun), driver.upstream.aborted, len(driver.upstream.sent)) == (2, 1, 1)


async def test_then_it_is_all_or_nobody():
    upstream = Standin(answers={"eve@example.net": Reply(550, "5.1.1", "No such user")})
    driver = editing(AddRecipient(Recipient(EVE)), upstream=upstream)
    assert str((await driver.deliver(RAW)).reply) == "550 5.1.1 No such user"
    assert upstream.sent == []
    upstream.answers["b@example.net"] = Reply(450, "4.2.0", "Later")
    driver.reconnect()
    assert (await driver.deliver(RAW)).reply.temporary


async def test_a_message_for_nobody_is_not_sent():
    driver = editing(DropRecipient(BOB))
    assert str((await driver.deliver(RAW)).reply).startswith("451 4.3.0 No recipient is left")
    assert driver.upstream.sent == []


async def test_under_lmtp_the_worst_answer_is_everybodys_when_nobody_knows_who_became_whom():
    upstream = Standin(per_recipient=True, finals={"eve@example.net": Reply(452, "4.2.2", "Mailbox full")})
    driver = editing(
        ReplaceRecipient(CLEO, EVE), upstream=upstream, policy=ListenerPolicy("l", protocol="lmtp")
    )
    delivery = await driver.deliver(RAW, recipients=["b@example.net", "c@example.net"])
    assert [reply.code for reply in delivery.replies] == [452, 452]
