import pytest
from pydantic import ValidationError

from relayproxy.api import AddRecipient, Address, Recipient
from relayproxy.testing.mail import call, make_address, make_mail

COPY = AddRecipient(Recipient(Address("archive", "example.com"), notify=("NEVER",)))


async def edits(plugin, sender="a@example.org", rcpt="b@example.net", earlier=()):
    mail = make_mail(sender=sender, recipients=earlier)
    recipient = Recipient(make_address(rcpt)) if rcpt else None
    return await call(plugin, "rewrite_envelope", mail=mail, rcpt=recipient)


@pytest.mark.parametrize(
    ("settings", "copied"),
    [
        ({}, True),
        ({"senders": ["example.org"]}, True),
        ({"senders": ["A@Example.ORG"]}, True),
        ({"senders": ["example.com", "b@example.org"]}, False),
        ({"recipients": ["example.net"]}, True),
        ({"recipients": ["b@example.net"]}, True),
        ({"recipients": ["ample.net"]}, False),
        ({"senders": ["example.com"], "recipients": ["example.net"]}, True),
    ],
)
async def test_what_is_copied(load, settings, copied):
    plugin = load("archive_copy", to="archive@example.com", **settings)
    assert await edits(plugin) == ([COPY] if copied else [])


async def test_the_sender_stage_and_the_null_sender(load):
    plugin = load("archive_copy", to="archive@example.com")
    assert await edits(plugin, rcpt=None) == []
    assert await edits(plugin, sender="") == [COPY]
    narrow = load("archive_copy", to="archive@example.com", senders=["example.org"])
    assert await edits(narrow, sender="") == []


async def test_a_copy_is_added_once_and_not_to_the_archive_s_own_mail(load):
    plugin = load("archive_copy", to="archive@example.com")
    assert await edits(plugin, rcpt="archive@EXAMPLE.com") == []
    assert await edits(plugin, earlier=["c@example.net", "archive@example.com"]) == []


@pytest.mark.parametrize("to", ["archive", "@example.com", "archive@"])
def test_the_archive_is_a_whole_address(load, to):
    with pytest.raises(ValidationError, match="is not an address"):
        load("archive_copy", to=to)
