"""Messages are found by what is known of them, on both databases."""

from dataclasses import replace

import pytest
from tests.history.making import DAY, NO, NOON, OK, database, kept, message

from relayproxy.history.messages import Wanted, count, messages
from relayproxy.model.finding import Finding

EVER = Wanted(0.0, NOON + 100 * DAY)
RULE = Finding("rule", "hit", 2.0, {"id": "r1", "at": "c.yaml:7"}, "why", "rules")


@pytest.fixture
def asked(place):
    kept(
        place,
        message(1, identity="Ana", sender="Ana_1@example.org", to=("x%y@example.net", "b@example.com")),
        message(2, at=NOON + DAY, outcome="rejected", replies=[NO], findings=(RULE,), ip="2001:db8::1"),
        message(
            3,
            route="far",
            message_id="<3@example.org>",
            findings=(Finding("campaign", "hit", props={"name": "spring"}),),
        ),
    )
    opened = database(place)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, ["m2", "m3", "m1"]),
        ({"since": NOON + 1}, ["m2"]),
        ({"sender": "ana_*"}, ["m1"]),
        ({"sender": "anaX1@*"}, []),
        ({"recipient": "X%Y@*"}, ["m1"]),
        ({"recipient": "x*z@*"}, []),
        ({"recipient": "b@example.ne?"}, ["m2", "m3"]),
        ({"login": "ANA"}, ["m1"]),
        ({"ip": "2001:db8:*"}, ["m2"]),
        ({"rule": "r1"}, ["m2"]),
        ({"rule": "r"}, []),
        ({"campaign": "spring"}, ["m3"]),
        ({"route": "far"}, ["m3"]),
        ({"outcome": "rejected", "direction": "inbound", "listener": "inbound"}, ["m2"]),
        ({"message_id": "<3@*"}, ["m3"]),
        ({"ids": ("m1", "m3", "none")}, ["m3", "m1"]),
        ({"sender": "'; DROP TABLE event; --"}, []),
    ],
)
def test_filters(asked, wanted, found):
    what = replace(EVER, **wanted)
    assert [one.id for one in messages(asked, what, 10)] == found
    assert count(asked, what) == len(found)


def test_what_was_kept_comes_back(asked):
    (one,) = messages(asked, replace(EVER, rule="r1"), 10)
    assert one.findings == (RULE,)
    assert one.recipients == (("b@example.net", "failed", str(NO)),)
    (two,) = messages(asked, replace(EVER, login="ana"), 10)
    assert (two.sender, two.login, two.size, two.code) == ("Ana_1@example.org", "Ana", 1000, 250)
    assert [address for address, _, _ in two.recipients] == ["x%y@example.net", "b@example.com"]
    assert two.reply == str(OK)


def test_no_more_than_were_asked_for(asked):
    assert [one.id for one in messages(asked, EVER, 2)] == ["m2", "m3"]
