"""What reports are made of, and the memory of what was sent."""

from dataclasses import replace

import pytest
from tests.history.making import NOON, database, kept, message

from relayproxy.history.dmarc import collect
from relayproxy.history.sent import Errand, claim, settle, was_sent
from relayproxy.model.finding import Finding

PERIOD = (NOON, NOON + 86_399)


@pytest.fixture
def store(place):
    opened = database(place, writing=True)
    yield opened
    opened.close()


def seen(number, record="v=DMARC1; p=none", at=NOON, sender="a@example.org", spf=None, **facts):
    props = {"header.from": "example.org", "policy_domain": "example.org", "policy": "none", "record": record}
    findings = (*([spf] if spf else []), Finding("dmarc", "pass", props=props))
    return message(number, at=at, sender=sender, findings=findings, **facts)


def test_the_last_policy_of_the_period_counts(store, place):
    kept(
        place,
        seen(1, "v=DMARC1; p=none"),
        seen(2, "v=DMARC1; p=reject", at=NOON + 10),
        seen(3, "v=DMARC1; p=quarantine", at=NOON + 5),
        seen(4, "v=DMARC1; p=quarantine", at=NOON + 100),
    )
    (found,) = collect(store, NOON, NOON + 100)
    assert found.published.record.p == "reject"
    assert [count for _, count in found.rows] == [3]


def test_the_period_has_a_beginning_and_an_end(store, place):
    kept(place, *(seen(n, at=NOON + n) for n in range(10)))
    (found,) = collect(store, NOON + 2, NOON + 5)
    assert sum(count for _, count in found.rows) == 3
    assert collect(store, NOON + 20, NOON + 30) == ()


def test_mail_from_is_what_spf_checked_even_if_it_was_rewritten_since(store, place):
    spf = Finding("spf", "pass", props={"smtp.mailfrom": "before.example", "domain": "before.example"})
    null = Finding("spf", "pass", props={"smtp.helo": "mx.example", "domain": "mx.example"})
    kept(
        place,
        seen(1, sender="srs0=x@us.example", spf=spf),
        seen(2, sender="", spf=null),
        seen(3, sender="plain@c.example"),
    )
    (found,) = collect(store, NOON, NOON + 1)
    assert sorted(row.envelope_from for row, _ in found.rows) == ["", "before.example", "c.example"]
    checks = {row.envelope_from: [check.domain for check in row.spf_checks] for row, _ in found.rows}
    assert checks == {"before.example": ["before.example"], "": ["mx.example"], "c.example": []}


def test_a_report_is_claimed_by_one(store, place):
    other = database(place, writing=True)
    errand = Errand("dmarc", "example.org", *PERIOD, "a@example.org")
    assert claim(store, errand, report="r", now=1000.0)
    assert not claim(other, errand, report="r", now=1001.0)
    assert claim(other, replace(errand, destination="b@example.org"), report="r", now=1001.0)
    assert not was_sent(store, errand)
    settle(store, errand, sent=True)
    assert was_sent(other, errand)
    assert not claim(other, errand, report="r", now=1e9)
    other.close()


def test_what_was_not_taken_or_never_settled_may_be_tried_again(store):
    errand = Errand("dmarc", "example.org", *PERIOD, "a@example.org")
    assert claim(store, errand, report="r", now=1000.0)
    settle(store, errand, sent=False)
    assert claim(store, errand, report="r", now=1001.0)
    assert not claim(store, errand, report="r", now=1002.0)
    assert claim(store, errand, report="r", now=1001.0 + 3601)
