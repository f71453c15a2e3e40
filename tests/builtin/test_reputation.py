from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from relayproxy.api import App, Finding, Outcome, Recipient, Reply, SharedState, State, Unavailable
from relayproxy.builtin.reputation import Reputation, ReputationSettings, standing
from relayproxy.builtin.score import Score
from relayproxy.testing import FakeClock, FakeResolver, MemoryState
from relayproxy.testing.mail import call, make_address, make_mail
from relayproxy.testing.session import SessionDriver, Standin

RAW = b"Subject: x\r\n\r\nHello\r\n"
SPF = Finding("spf", "pass", props={"smtp.mailfrom": "example.org"})


def outcome(state):
    reply = {State.DONE: 250, State.PENDING: 451, State.FAILED: 550}[state]
    return Outcome(Recipient(make_address("b@example.net")), state, Reply(reply, "", "x"), "up")


class Memory:
    def __init__(self, state=None, **settings) -> None:
        self.clock = FakeClock()
        self.plugin = Reputation(ReputationSettings.model_validate(settings))
        state = state or MemoryState(self.clock.time)
        self.plugin.startup(App("mx.example.com", FakeResolver(), self.clock, Path(), state=state))

    async def learn(self, score=0.0, times=1, states=(State.DONE,), findings=(), **more):
        for _ in range(times):
            mail = make_mail(RAW, findings=[*findings, Finding("check", "hit", score)], **more)
            await call(self.plugin, "after_forward", mail=mail, outcomes=tuple(map(outcome, states)))

    async def known(self, **more):
        mail = make_mail(RAW, **more)
        assert await call(self.plugin, "message", mail=mail) is None
        return {f.props["kind"]: f for f in mail.findings if f.method == "reputation"}


async def test_who_is_new_has_none():
    assert await Memory().known(findings=[SPF]) == {}


async def test_bad_mail_makes_a_bad_name_and_good_mail_a_good_one():
    memory = Memory()
    await memory.learn(9.0, times=10, findings=[SPF])
    found = await memory.known(findings=[SPF])
    assert {kind: (f.result, f.score) for kind, f in found.items()} == {
        "client": ("hit", 1.0),
        "domain": ("hit", 1.0),
    }
    assert dict(found["domain"].props) == {
        "kind": "domain",
        "name": "example.org",
        "good": "0.0",
        "bad": "10.0",
    }
    await memory.learn(0.0, times=90, ip="198.51.100.1")
    found = await memory.known(ip="198.51.100.1")
    assert (found["client"].result, found["client"].score) == ("miss", -1.8)
    assert found["client"].reason == "client 198.51.100.1/32: 0.0 bad, 90.0 good"


async def test_what_is_in_between_is_not_counted():
    memory = Memory()
    await memory.learn(4.0)
    await memory.learn(0.0, states=[State.PENDING])
    assert await memory.known() == {}
    await memory.learn(0.0, states=[State.FAILED])
    assert (await memory.known())["client"].props["bad"] == "1.0"
    await memory.learn(0.0, states=[State.DONE, State.FAILED])
    assert (await memory.known())["client"].props["good"] == "1.0"


async def test_old_messages_count_less():
    memory = Memory()
    await memory.learn(9.0, times=8)
    memory.clock.advance(14 * 86_400.0)
    found = (await memory.known())["client"]
    assert (found.props["bad"], found.score) == ("2.0", round(2.0 * 2 / 12, 3))
    memory.clock.advance(100 * 86_400.0)
    assert await memory.known() == {}


@pytest.mark.parametrize(
    ("finding", "proven"),
    [
        (SPF, True),
        (Finding("spf", "pass", props={"smtp.helo": "example.org"}), False),
        (Finding("spf", "pass", props={"smtp.mailfrom": "example.org", "weak": "all"}), False),
        (Finding("spf", "fail", props={"smtp.mailfrom": "example.org"}), False),
        (Finding("dkim", "pass", props={"header.d": "example.org"}), True),
        (Finding("dkim", "pass", props={"header.d": "other.example"}), False),
        (Finding("dmarc", "pass", props={"header.from": "Example.org"}), True),
        (Finding("dmarc", "fail", props={"header.from": "example.org"}), False),
    ],
)
async def test_a_domain_counts_only_where_it_is_proven(finding, proven):
    memory = Memory()
    await memory.learn(9.0, findings=[finding])
    assert ("domain" in await memory.known(findings=[finding])) is proven


async def test_a_forger_does_not_spoil_a_domain():
    memory = Memory()
    await memory.learn(9.0, times=50)
    assert "domain" not in await memory.known(findings=[SPF])


async def test_a_login_is_counted_and_not_where_it_came_from():
    memory = Memory(scales={"login": 4.0})
    await memory.learn(9.0, times=10, identity="alice")
    assert await memory.known() == {}
    found = await memory.known(identity="alice", ip="198.51.100.1")
    assert (list(found), found["login"].score) == (["login"], 2.0)


async def test_its_own_score_is_not_learnt_from():
    memory = Memory()
    own = Finding("reputation", "hit", 5.9)
    await memory.learn(1.0, findings=[own])
    assert (await memory.known())["client"].props["good"] == "1.0"


async def test_it_feeds_the_score_and_learns_from_it():
    memory = MemoryState(FakeClock().time)
    refused = Standin(final=Reply(550, "5.7.1", "No"))
    driver = SessionDriver(Reputation, Score, state=memory, upstream=refused)
    for _ in range(3):
        assert (await driver.deliver(RAW)).reply.code == 550
    delivery = await SessionDriver(Reputation, Score, state=memory).deliver(RAW)
    assert delivery.reply.code == 250
    assert b"tests=reputation.hit=+0.5" in delivery.sent.data
    assert delivery.mail.score == pytest.approx(round(2.0 * 3 / 13, 3))


async def test_without_the_state_it_fails():
    with pytest.raises(Unavailable):
        await Memory(state=SharedState()).known()


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0.1, 1e4))
def test_a_standing_is_between_the_ends_and_grows_with_what_is_bad(good, bad, doubt):
    value = standing(good, bad, doubt)
    assert -1 <= value <= 1
    assert standing(good, bad + 1, doubt) > value or bad > 1e5
    assert standing(bad, good, doubt) == pytest.approx(-value)


def test_mistakes_are_told():
    with pytest.raises(ValidationError, match="can't be both"):
        ReputationSettings(good=7.0)
