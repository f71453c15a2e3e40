from pathlib import Path

import pytest
from pydantic import ValidationError

from relayproxy.api import Action, App, Direction, Finding, SharedState, Unavailable
from relayproxy.builtin.greylist import Greylist, GreylistSettings
from relayproxy.testing import FakeClock, FakeResolver, MemoryState
from relayproxy.testing.mail import call, make_mail
from relayproxy.testing.session import SessionDriver

RAW = b"Subject: x\r\n\r\nHello\r\n"


def spf(domain="example.org", result="pass", **props):
    return Finding("spf", result, props={"smtp.mailfrom": domain, **props})


def scored(greylist="yes", score=0.0):
    return Finding("score", "hit", score, {"greylist": greylist})


class List:
    def __init__(self, state=None, **settings) -> None:
        self.clock = FakeClock()
        self.plugin = Greylist(GreylistSettings.model_validate(settings))
        self.state = state or MemoryState(self.clock.time)
        self.plugin.startup(App("mx.example.com", FakeResolver(), self.clock, Path(), state=self.state))

    async def ask(self, **more):
        self.mail = make_mail(RAW, **more)
        return await call(self.plugin, "message", mail=self.mail)

    async def passes(self, **more):
        return await self.ask(**more) is None

    async def comes_back(self, **more):
        """Be put off, wait, pass."""
        assert not await self.passes(**more)
        self.clock.advance(301.0)
        assert await self.passes(**more)


async def test_first_put_off_then_let_in():
    greylist = List()
    verdict = await greylist.ask()
    assert verdict.action is Action.DEFER
    assert str(verdict.reply) == "451 4.7.1 Greylisted, try again in 5 minutes"
    assert greylist.mail.finding("greylist").props == {"client": "192.0.2.0/24", "wait": "300"}
    greylist.clock.advance(200.0)
    assert str((await greylist.ask()).reply).endswith("in 100 seconds"), "too early, and no new start"
    greylist.clock.advance(101.0)
    assert await greylist.passes()
    assert greylist.mail.finding("greylist").props["because"] == "came back"
    greylist.clock.advance(30 * 86_400.0)
    assert await greylist.passes()
    assert greylist.mail.finding("greylist").props["because"] == "known sender"
    greylist.clock.advance(30 * 86_400.0)
    assert await greylist.passes(), "each message prolongs it"
    greylist.clock.advance(36 * 86_400.0)
    assert not await greylist.passes()


async def test_who_comes_back_too_late_starts_anew():
    greylist = List()
    await greylist.ask()
    greylist.clock.advance(86_401.0)
    assert not await greylist.passes()
    greylist.clock.advance(301.0)
    assert await greylist.passes()


@pytest.mark.parametrize(
    ("settings", "first", "second", "same"),
    [
        ({}, {"ip": "192.0.2.1"}, {"ip": "192.0.2.99"}, True),
        ({}, {"ip": "192.0.2.1"}, {"ip": "192.0.3.1"}, False),
        ({}, {"ip": "2001:db8::1"}, {"ip": "2001:db8::2:1"}, True),
        ({}, {"ip": "2001:db8::1"}, {"ip": "2001:db8:0:1::1"}, False),
        ({"client": "address"}, {"ip": "192.0.2.1"}, {"ip": "192.0.2.99"}, False),
        (
            {},
            {"ip": "192.0.2.1", "findings": [spf()]},
            {"ip": "198.51.100.1", "findings": [spf()]},
            True,
        ),
        (
            {},
            {"ip": "192.0.2.1", "findings": [spf(weak="all")]},
            {"ip": "198.51.100.1", "findings": [spf(weak="all")]},
            False,
        ),
        (
            {"client": "network"},
            {"ip": "192.0.2.1", "findings": [spf()]},
            {"ip": "198.51.100.1", "findings": [spf()]},
            False,
        ),
        (
            {"client": "ptr"},
            {
                "ip": "192.0.2.1",
                "findings": [Finding("iprev", "pass", props={"name": "o1.mail.example.co.uk"})],
            },
            {
                "ip": "198.51.100.1",
                "findings": [Finding("iprev", "pass", props={"name": "o2.example.co.uk"})],
            },
            True,
        ),
        (
            {"client": "ptr"},
            {"ip": "192.0.2.1", "findings": [Finding("iprev", "fail", props={"name": ""})]},
            {"ip": "198.51.100.1", "findings": [Finding("iprev", "fail", props={"name": ""})]},
            False,
        ),
    ],
)
async def test_what_counts_as_the_same_client(settings, first, second, same):
    greylist = List(**settings)
    assert not await greylist.passes(**first)
    greylist.clock.advance(301.0)
    assert await greylist.passes(**second) is same


async def test_numbers_and_tags_of_a_sender_do_not_make_another_one():
    greylist = List()
    await greylist.ask(sender="bounce-123-b=example.net@lists.example.org")
    greylist.clock.advance(301.0)
    assert await greylist.passes(sender="bounce-124-b=example.net@lists.example.org")
    assert not await greylist.passes(sender="other@lists.example.org")
    assert not await greylist.passes(sender="")


async def test_every_recipient_has_to_be_known():
    greylist = List()
    await greylist.comes_back(recipients=["a@example.net"])
    assert not await greylist.passes(recipients=["a@example.net", "b@example.net"])
    assert await greylist.passes(recipients=["A@example.net"])
    greylist.clock.advance(301.0)
    assert await greylist.passes(recipients=["b@example.net"])


async def test_a_client_that_came_back_often_is_known():
    greylist = List(passes=2)
    for number in range(2):
        await greylist.comes_back(sender=f"{'ab'[number]}@example.org")
    assert await greylist.passes(sender="new@example.org")
    assert greylist.mail.finding("greylist").props["because"] == "known client"
    assert not await greylist.passes(sender="new@example.org", ip="198.51.100.1")
    greylist.clock.advance(36 * 86_400.0)
    assert not await greylist.passes(sender="another@example.org")


async def test_the_same_sender_again_makes_no_client_known():
    greylist = List(passes=2)
    await greylist.comes_back()
    for _ in range(5):
        assert await greylist.passes()
    assert not await greylist.passes(sender="new@example.org")


@pytest.mark.parametrize(
    ("settings", "findings", "put_off"),
    [
        ({}, [], True),
        ({}, [scored("no")], False),
        ({}, [scored("yes")], True),
        ({"score": 4.0}, [Finding("dnsbl", "hit", 3.9)], False),
        ({"score": 4.0}, [Finding("dnsbl", "hit", 4.0)], True),
        ({"score": 4.0}, [scored("no", 5.0)], True),
        ({"score": 4.0, "below": 6.0}, [Finding("dnsbl", "hit", 6.0)], False),
    ],
)
async def test_only_what_is_doubtful_waits(settings, findings, put_off):
    assert await List(**settings).passes(findings=findings) is not put_off


@pytest.mark.parametrize(
    "more",
    [
        {"identity": "alice"},
        {"direction": Direction.OUTBOUND},
        {"ip": ""},
        {"sender": "a@mail.bank.example", "findings": [spf("mail.bank.example")]},
        {"recipients": ["b@example.net", "Codes@example.net"]},
        {"recipients": ["b@fast.example"]},
    ],
)
async def test_who_never_waits(more):
    greylist = List(except_senders=["bank.example"], except_recipients=["codes@example.net", "fast.example"])
    assert await greylist.passes(**more)
    assert greylist.mail.finding("greylist") is None


async def test_a_name_alone_is_no_exception():
    greylist = List(except_senders=["bank.example"])
    assert not await greylist.passes(sender="a@bank.example", findings=[spf("bank.example", "fail")])


async def test_without_the_state_it_fails():
    with pytest.raises(Unavailable):
        await List(state=SharedState()).ask()


@pytest.mark.parametrize(
    "settings",
    [{"delay": "1d", "window": "1h"}, {"score": 5.0, "below": 5.0}, {"delay": 300}, {"passes": -1}],
)
def test_mistakes_are_told(settings):
    with pytest.raises(ValidationError):
        GreylistSettings.model_validate(settings)


async def test_a_client_hears_it_and_is_let_in_later():
    driver = SessionDriver(Greylist)
    delivery = await driver.deliver(RAW)
    assert (delivery.reply.code, delivery.reply.status, delivery.sent) == (451, "4.7.1", None)
    driver.clock.advance(301.0)
    assert (await driver.deliver(RAW)).reply.code == 250
