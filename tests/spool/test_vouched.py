"""Who may be sent a bounce."""

from dataclasses import replace

import pytest
from tests.spool.making import CLIENT, a_mail

from relayproxy.model.envelope import Envelope
from relayproxy.model.finding import Finding
from relayproxy.spool.vouching import vouched
from relayproxy.testing.mail import make_address

OF = {"spf": "smtp.mailfrom", "dkim": "header.d", "dmarc": "header.from"}


def found(*findings: Finding, sender: str = "a@news.example.org", client=CLIENT) -> bool:
    return vouched(a_mail(Envelope(make_address(sender)), client, findings=findings))


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({}, False),
        ({"trusted": True}, True),
        ({"identity": "ana"}, True),
        ({"trusted": True, "forwarded": True}, False),
    ],
)
def test_by_the_client(changes, known):
    assert found(client=replace(CLIENT, **changes)) is known


@pytest.mark.parametrize("method", OF)
@pytest.mark.parametrize("domain", ["news.example.org", "example.org", "b.news.EXAMPLE.org", "x@example.org"])
def test_by_a_check_that_passed(method, domain):
    assert found(Finding("iprev", "fail"), Finding(method, "pass", props={OF[method]: domain}))
    assert not found(Finding(method, "fail", props={OF[method]: domain}), Finding("iprev", "pass"))


@pytest.mark.parametrize("method", OF)
@pytest.mark.parametrize("domain", ["", "org.example", "badexample.org", "ews.example.org", "@"])
def test_somebody_elses_name_says_nothing_of_the_sender(method, domain):
    assert not found(Finding(method, "pass", props={OF[method]: domain}))


def test_the_name_of_helo_says_nothing_of_the_sender():
    assert not found(Finding("spf", "pass", props={"smtp.helo": "news.example.org"}))
