import pytest
from pydantic import ValidationError

from relayproxy.api import Address, Recipient, ReplaceRecipient
from relayproxy.model.edits import apply_to_envelope
from relayproxy.testing.mail import call, make_address, make_mail

ADDRESSES = {"info@example.com": "ana@example.com", "Sales@Example.com": "luis@example.net"}


async def edits(plugin, rcpt):
    return await call(plugin, "rewrite_envelope", rcpt=Recipient(make_address(rcpt)) if rcpt else None)


@pytest.mark.parametrize(
    ("given", "new"),
    [
        ("info@example.com", Address("ana", "example.com")),
        ("INFO@example.COM", Address("ana", "example.com")),
        ("sales@example.com", Address("luis", "example.net")),
    ],
)
async def test_a_listed_address_is_replaced(load, given, new):
    (edit,) = await edits(load("moved_users", addresses=ADDRESSES), given)
    assert edit == ReplaceRecipient(make_address(given), new)


@pytest.mark.parametrize("given", ["ana@example.com", "info@example.net", "postmaster", None])
async def test_others_stay(load, given):
    assert await edits(load("moved_users", addresses=ADDRESSES), given) == []


async def test_the_options_of_the_recipient_stay(load):
    (edit,) = await edits(load("moved_users", addresses=ADDRESSES), "info@example.com")
    asked = Recipient(make_address("info@example.com"), notify=("SUCCESS",), orcpt="rfc822;info@example.com")
    envelope = apply_to_envelope(make_mail(recipients=[asked]).envelope, [edit])
    assert envelope.recipients == (Recipient(Address("ana", "example.com"), asked.notify, asked.orcpt),)


@pytest.mark.parametrize("addresses", [{}, {"info": "ana@example.com"}, {"info@example.com": "ana"}])
def test_addresses_are_whole(load, addresses):
    with pytest.raises(ValidationError):
        load("moved_users", addresses=addresses)
