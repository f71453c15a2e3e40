"""Which refusals are about us, and how long a source rests for one."""

import asyncio
from pathlib import Path

import pytest

from relayproxy.api import SharedState
from relayproxy.bounces import rules
from relayproxy.bounces.rules import rules_of
from relayproxy.config.yaml import read_file
from relayproxy.delivery.reputation import Rests, is_block, reply_in
from relayproxy.model.reply import Reply
from relayproxy.state.memory import MemoryState
from relayproxy.testing import FakeClock

RULES = rules_of(read_file(Path(rules.__file__).with_name("rules.yaml")))
NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("reply", "blocked"),
    [
        (
            Reply(
                550, "5.7.1", "Service unavailable, client host [192.0.2.1] blocked using zen.spamhaus.org"
            ),
            True,
        ),
        (Reply(421, "4.7.0", "Messages from 192.0.2.1 temporarily refused: poor reputation"), True),
        (Reply(554, "5.7.1", "Your IP address is on our block list"), True),
        (Reply(550, "5.7.25", "The sending IP has no PTR record"), True),
        (Reply(550, "5.1.1", "No such user"), False),
        (Reply(452, "4.2.2", "Mailbox full"), False),
        (Reply(421, "4.7.28", "Unusual rate of mail, try again later"), False),
        (Reply(250, "2.1.5", "Ok, though your IP is on a block list"), False),
    ],
)
def test_what_is_about_us(reply, blocked):
    assert is_block(RULES, reply) is blocked


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("192.0.2.1:25: 554 5.7.1 Blocked", Reply(554, "5.7.1", "Blocked")),
        ("[2001:db8::1]:25: 421 too many", Reply(421, "", "too many")),
        ("192.0.2.1:25: 554 4.7.1 said badly", Reply(554, "", "said badly")),
        ("192.0.2.1:25: [Errno 111] Connection refused", None),
        ("10.0.0.5:25: no connection within 5 s", None),
        ("", None),
    ],
)
def test_the_reply_in_a_reason(text, reply):
    assert reply_in(text) == reply


class Lost(SharedState):
    """A store that gives no answer."""


@pytest.mark.parametrize("kind", ["alone", "shared", "lost"])
async def test_rests_grow_and_a_good_message_ends_that(kind):
    clock = FakeClock(NOW)
    rests = Rests(3600.0, {"alone": None, "shared": MemoryState(clock.time), "lost": Lost()}[kind])
    assert await rests.begin("a", "example.net", NOW) == 3600.0
    assert await rests.begin("a", "example.net", NOW + 1) == 0.0, "it rests already"
    assert await rests.until("a", "example.net", NOW + 3599) == NOW + 3600
    assert await rests.until("a", "example.com", NOW) == 0.0
    assert await rests.until("b", "example.net", NOW) == 0.0
    clock.advance(3600)
    assert await rests.until("a", "example.net", clock.time()) == 0.0
    lengths = []
    for _ in range(6):
        lengths.append(await rests.begin("a", "example.net", clock.time()))
        clock.advance(lengths[-1])
    assert lengths == [7200.0, 14400.0, 28800.0, 57600.0, 86400.0, 86400.0]
    await rests.end("a", "example.net")
    assert await rests.begin("a", "example.net", clock.time()) == 3600.0


async def test_workers_learn_of_rests_from_each_other():
    clock = FakeClock(NOW)
    state = MemoryState(clock.time)
    one, other = Rests(3600.0, state), Rests(3600.0, state)
    assert await other.until("a", "example.net", NOW) == 0.0
    assert await one.begin("a", "example.net", NOW) == 3600.0
    clock.advance(10)
    assert await other.until("a", "example.net", clock.time()) == NOW + 3600
    assert await other.begin("a", "example.net", clock.time()) == 0.0
    # Whoever is refused next makes it longer, and whose message is taken ends it for all.
    clock.advance(3600)
    assert await other.begin("a", "example.net", clock.time()) == 7200.0
    clock.advance(10)
    assert await one.until("a", "example.net", clock.time()) == NOW + 3610 + 7200
    await one.end("a", "example.net")
    clock.advance(10)
    assert await other.until("a", "example.net", clock.time()) == 0.0
    assert await other.begin("a", "example.net", clock.time()) == 3600.0


async def test_of_two_that_are_refused_at_the_same_moment_one_begins_the_rest():
    clock = FakeClock(NOW)
    state = MemoryState(clock.time)
    workers = [Rests(3600.0, state) for _ in range(5)]
    lengths = await asyncio.gather(*(one.begin("a", "example.net", NOW) for one in workers))
    assert sorted(lengths) == [0.0, 0.0, 0.0, 0.0, 3600.0]
    assert {await one.until("a", "example.net", NOW) for one in workers} == {NOW + 3600}


async def test_what_others_have_learnt_is_looked_up_now_and_then():
    asked = []

    class Counting(MemoryState):
        async def do(self, *operations):
            asked.append(operations)
            return await super().do(*operations)

    clock = FakeClock(NOW)
    rests = Rests(3600.0, Counting(clock.time))
    for _ in range(100):
        assert await rests.until("a", "example.net", clock.time()) == 0.0
        await rests.end("a", "example.net")
    assert len(asked) == 1
