import pytest

from relayproxy.api import Direction
from relayproxy.testing.mail import call, make_client, make_mail


async def after_helo(load, name):
    """The reply to MAIL of a client that introduced itself as `name`."""
    plugin = load("helo_names")
    mail = make_mail()
    mail.client = make_client(helo=name)
    await call(plugin, "helo", client=mail.client, name=name, note=mail.note)
    mail.findings = tuple(mail.noted)
    verdict = await call(plugin, "mail", mail=mail)
    return str(verdict.reply) if verdict else None


@pytest.mark.parametrize(
    "name", ["mx.example.org", "MX.Example.ORG.", "[192.0.2.1]", "[IPv6:2001:db8::1]", "[203.0.113.9]"]
)
async def test_names_that_will_do(load, name):
    assert await after_helo(load, name) is None


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("localhost", "is a name for private networks"),
        ("mail.Local", "is a name for private networks"),
        ("srv1.corp.internal.", "is a name for private networks"),
        ("server", "is not a full host name"),
        ("", "is not a full host name"),
        ("[x]", "is not an IP address"),
    ],
)
async def test_names_that_will_not(load, name, what):
    reply = f"550 5.7.1 Your mail server says it is {name}, which {what}"
    assert await after_helo(load, name) == reply


def test_only_strangers_are_asked(load):
    assert load("helo_names").directions == {Direction.INBOUND}


async def test_without_a_finding_there_is_no_opinion(load):
    assert await call(load("helo_names"), "mail", mail=make_mail()) is None
