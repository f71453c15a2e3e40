from pathlib import Path

import pytest
from pydantic import ValidationError

from relayproxy.api import Action, App, Recipient, SharedState
from relayproxy.builtin.ratelimit import KEYS, Ratelimit, RatelimitSettings
from relayproxy.core.policy import ListenerPolicy
from relayproxy.testing import FakeClock, FakeResolver, MemoryState
from relayproxy.testing.mail import call, make_address, make_mail
from relayproxy.testing.session import SessionDriver, entry_for


def settings(*limits):
    return RatelimitSettings.model_validate({"limits": limits})


class Limiter:
    def __init__(self, *limits, state=None) -> None:
        self.clock = FakeClock()
        self.plugin = Ratelimit(settings(*limits))
        state = state or MemoryState(self.clock.time)
        self.plugin.startup(App("mx.example.com", FakeResolver(), self.clock, Path(), state=state))

    async def rcpt(self, to="b@example.net", mail=None, **more):
        self.mail = mail or make_mail(**more)
        return await call(self.plugin, "rcpt", mail=self.mail, rcpt=Recipient(make_address(to)))

    async def begin(self, **more):
        self.mail = make_mail(**more)
        return await call(self.plugin, "mail", mail=self.mail)

    async def passed(self, times, **more):
        """How many of so many recipients pass."""
        return [await self.rcpt(**more) is None for _ in range(times)].count(True)


async def test_a_burst_and_then_the_rate():
    limiter = Limiter({"per": "client", "rate": "60/1h", "burst": 5})
    assert await limiter.passed(10) == 5
    limiter.clock.advance(60.0)
    assert await limiter.passed(3) == 1
    limiter.clock.advance(86_400.0)
    assert await limiter.passed(10) == 5


async def test_the_refusal_says_how_long_to_wait():
    limiter = Limiter({"per": "login", "rate": "1/30m", "burst": 1})
    await limiter.rcpt(identity="alice")
    verdict = await limiter.rcpt(identity="alice")
    assert verdict.action is Action.DEFER
    assert str(verdict.reply) == "450 4.7.1 Too many recipients in a short time, try again in 30 minutes"
    assert verdict.reason == "login: alice has used up 1/30m (burst 1)"
    (finding,) = limiter.mail.findings
    assert (finding.method, finding.result) == ("ratelimit", "hit")
    assert dict(finding.props) == {"limit": "login", "key": "alice", "wait": "1800", "mode": "enforce"}


async def test_recipients_count_and_not_messages():
    limiter = Limiter({"per": "login", "rate": "100/1h"})
    mail = make_mail(identity="alice")
    answers = [await limiter.rcpt(f"r{n}@example.org", mail) for n in range(101)]
    assert [answer is None for answer in answers] == [True] * 100 + [False]


async def test_messages_count_where_that_is_said():
    limiter = Limiter({"per": "client", "rate": "2/1m", "count": "messages", "code": 451})
    assert [await limiter.begin() is None for _ in range(3)] == [True, True, False]
    assert (await limiter.begin()).reply.code == 451
    assert await limiter.passed(5) == 5


@pytest.mark.parametrize(
    ("per", "same", "other"),
    [
        ("client", {"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}),
        ("client", {"ip": "2001:db8::1"}, {"ip": "2001:db8:0:1::1"}),
        ("client", {"ip": "::ffff:192.0.2.1"}, {"ip": "192.0.2.2"}),
        ("network", {"ip": "192.0.2.1"}, {"ip": "192.0.3.1"}),
        ("login", {"identity": "alice"}, {"identity": "bob"}),
        ("listener", {"listener": "a"}, {"listener": "b"}),
        ("sender", {"sender": "a@example.org"}, {"sender": "b@example.org"}),
        ("sender_domain", {"sender": "a@example.org"}, {"sender": "a@sub.example.org"}),
        ("recipient", {"to": "a@example.net"}, {"to": "b@example.net"}),
        ("recipient_domain", {"to": "a@example.net"}, {"to": "a@example.com"}),
        (["login", "recipient_domain"], {"identity": "a"}, {"identity": "a", "to": "b@example.com"}),
    ],
)
async def test_each_key_has_a_bucket_of_its_own(per, same, other):
    limiter = Limiter({"per": per, "rate": "2/1h"})
    assert await limiter.passed(3, **same) == 2
    assert await limiter.passed(3, **other) == 2
    assert await limiter.passed(3, **same) == 0


async def test_addresses_of_one_ipv6_network_are_one_client():
    limiter = Limiter({"per": "client", "rate": "2/1h"})
    passed = [await limiter.rcpt(ip=f"2001:db8::{n:x}") is None for n in range(5)]
    assert passed.count(True) == 2


async def test_another_case_is_not_another_sender_or_recipient():
    limiter = Limiter({"per": "sender", "rate": "1/1h"}, {"per": "recipient", "rate": "1/1h"})
    assert await limiter.rcpt("b@example.net", sender="A@Example.org") is None
    assert await limiter.rcpt("other@example.net", sender="a@example.ORG") is not None
    assert await limiter.rcpt("B@EXAMPLE.NET", sender="x@example.org") is not None


@pytest.mark.parametrize("per", ["sender", "sender_domain"])
async def test_the_null_sender_counts_for_each_client(per):
    limiter = Limiter({"per": per, "rate": "2/1h"})
    assert await limiter.passed(3, sender="", ip="192.0.2.1") == 2
    assert await limiter.passed(3, sender="", ip="192.0.2.2") == 2


async def test_who_has_no_such_key_has_no_limit():
    limiter = Limiter({"per": "login", "rate": "1/1h"}, {"per": "client", "rate": "1/1h"})
    assert await limiter.passed(3, ip="", identity="") == 3


async def test_a_refusal_by_one_limit_costs_nothing_with_the_others():
    limiter = Limiter(
        {"per": "login", "rate": "10/1h", "burst": 10},
        {"per": "recipient_domain", "rate": "1/1h", "burst": 1},
    )
    assert await limiter.passed(8, identity="alice") == 1
    passed = [await limiter.rcpt(f"a@example{n}.net", identity="alice") is None for n in range(12)]
    assert passed.count(True) == 9


async def test_of_several_limits_the_longest_wait_is_named():
    limiter = Limiter(
        {"per": "client", "rate": "1/1m", "name": "short"}, {"per": "sender", "rate": "1/1h", "name": "long"}
    )
    await limiter.rcpt()
    verdict = await limiter.rcpt()
    assert verdict.reason.startswith("long: ")
    assert [finding.props["limit"] for finding in limiter.mail.findings] == ["short", "long"]


async def test_a_limit_for_some_and_not_for_others():
    limiter = Limiter(
        {"per": "login", "rate": "1/1h", "exempt": ["News@Example.org"], "name": "usual"},
        {"per": "login", "rate": "3/1h", "only": ["news@example.org"], "name": "news"},
    )
    assert await limiter.passed(5, identity="alice") == 1
    assert await limiter.passed(5, identity="news@example.org") == 3


async def test_an_observed_limit_notes_and_stops_nothing(caplog):
    limiter = Limiter(
        {"per": "client", "rate": "1/1h", "observe": True, "name": "new"},
        {"per": "client", "rate": "3/1h", "name": "old"},
    )
    with caplog.at_level("INFO", "relayproxy.plugin.ratelimit"):
        assert await limiter.passed(2) == 2
    assert limiter.mail.finding("ratelimit").props["mode"] == "observe"
    assert "would put off" in caplog.text
    assert await limiter.passed(5) == 1


async def test_the_client_hears_it_and_mail_is_kept_when_the_state_fails():
    limit = settings({"per": "client", "rate": "1/1h", "burst": 2})
    driver = SessionDriver(Ratelimit(limit))
    await driver.say("EHLO client.example.org", "MAIL FROM:<a@example.org>")
    replies = await driver.say(*(f"RCPT TO:<r{n}@example.net>" for n in range(4)))
    assert [reply.code for reply in replies] == [250, 250, 450, 450]

    broken = SessionDriver(entry_for(Ratelimit(limit)), state=SharedState())
    assert (await broken.deliver(b"Subject: x\r\n\r\n")).reply.code == 451
    assert not any("plugin_fault" in line for line in broken.log), "whoever noticed has logged it"
    assert broken.services.metrics.cell("plugin_errors_total", "ratelimit", "unavailable").value == 1
    skipped = SessionDriver(entry_for(Ratelimit(limit), on_error="skip"), state=SharedState())
    assert (await skipped.deliver(b"Subject: x\r\n\r\n")).reply.code == 250


async def test_the_default_limits_logins_and_nobody_else():
    driver = SessionDriver(Ratelimit, identity="alice", policy=ListenerPolicy("submission"))
    recipients = [f"r{n}@example.net" for n in range(201)]
    await driver.say("EHLO client.example.org", "MAIL FROM:<a@example.org>")
    replies = await driver.say(*(f"RCPT TO:<{rcpt}>" for rcpt in recipients))
    assert [reply.code for reply in replies] == [250] * 200 + [450]


@pytest.mark.parametrize(
    ("limit", "word"),
    [
        ({"per": "client"}, "rate"),
        ({"rate": "1/1h"}, "per"),
        ({"per": "nobody", "rate": "1/1h"}, "per"),
        ({"per": "client", "rate": "fast"}, "how many in which time"),
        ({"per": "client", "rate": "0/1h"}, "at least one"),
        ({"per": "client", "rate": 5}, "how many in which time"),
        ({"per": "recipient", "rate": "1/1h", "count": "messages"}, "counts recipients"),
        ({"per": ["client", "login"], "rate": "1/1h", "only": ["x"]}, "per one thing"),
        ({"per": "client", "rate": "1/1h", "burst": 0}, "burst"),
    ],
)
def test_mistakes_are_told(limit, word):
    with pytest.raises(ValidationError, match=word):
        settings(limit)


def test_two_limits_of_one_name_are_a_mistake():
    with pytest.raises(ValidationError, match="give each a name"):
        settings({"per": "client", "rate": "1/1h"}, {"per": "client", "rate": "9/1d"})


def test_settings_can_be_shown_and_read_again():
    made = settings({"per": "client", "rate": "100/h", "burst": 7})
    assert RatelimitSettings.model_validate(made.model_dump(mode="json")) == made
    assert set(KEYS) == set(
        RatelimitSettings.model_json_schema()["$defs"]["Limit"]["properties"]["per"]["anyOf"][0]["enum"]
    )
