import pytest

from relayproxy.api import DnsStatus
from relayproxy.testing.mail import call, make_mail

SERVFAIL, TIMEOUT = DnsStatus.SERVFAIL, DnsStatus.TIMEOUT


@pytest.fixture
def ask(load, app, resolver):
    """A function that fills the DNS and asks about a sender."""

    async def about(sender, **records):
        for rdtype, found in records.items():
            resolver.set("example.org", rdtype, found)
        plugin = load("sender_domain_exists")
        await call(plugin, "startup", app=app)
        verdict = await call(plugin, "mail", mail=make_mail(sender=sender))
        return str(verdict.reply) if verdict else None

    return about


@pytest.mark.parametrize(
    "records",
    [
        {"MX": [(10, "mx.example.org")]},
        {"MX": [], "A": "192.0.2.1"},
        {"MX": [], "AAAA": "2001:db8::1"},
        {"MX": [], "A": SERVFAIL, "AAAA": "2001:db8::1"},
    ],
)
async def test_a_domain_that_can_be_answered(ask, records):
    assert await ask("a@example.org", **records) is None


GONE = "550 5.1.8 The sender's domain example.org does not exist"
LATER = "451 4.4.3 The sender's domain example.org can't be looked up now, try again later"
NULL_MX = "550 5.7.27 The sender's domain example.org takes no mail, so nobody could answer"


@pytest.mark.parametrize(
    ("records", "reply"),
    [
        ({}, GONE),
        ({"TXT": "v=spf1 -all"}, GONE),
        ({"MX": [(0, "")]}, NULL_MX),
        ({"MX": [(0, ".")]}, NULL_MX),
        ({"MX": SERVFAIL}, LATER),
        ({"MX": TIMEOUT}, LATER),
        ({"MX": [], "A": TIMEOUT, "AAAA": []}, LATER),
        ({"MX": [], "A": [], "AAAA": SERVFAIL}, LATER),
    ],
)
async def test_a_domain_that_can_not(ask, records, reply):
    assert await ask("a@example.org", **records) == reply


@pytest.mark.parametrize("sender", ["", "postmaster", "a@[192.0.2.1]"])
async def test_what_has_no_domain_is_not_looked_up(ask, resolver, sender):
    assert await ask(sender) is None
    assert resolver.asked == []


async def test_a_foreign_script_is_looked_up_by_its_a_labels(ask, resolver):
    assert "xn--mller-kva.example" in await ask("a@müller.example")
    assert resolver.asked == [("xn--mller-kva.example", "MX")]
