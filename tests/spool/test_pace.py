"""Slower where the other side asks for it, and faster again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.model.reply import Reply
from relayproxy.spool.pace import Paces, is_throttled


@pytest.mark.parametrize(
    ("reply", "throttled"),
    [
        (Reply(421, "4.7.0", "Closing connection"), True),
        (Reply(450, "4.7.1", "Error: too many connections from 192.0.2.1"), True),
        (Reply(421, "4.7.28", "unusual rate of unsolicited mail"), True),
        (Reply(451, "4.7.650", "The mail server has been temporarily limited"), True),
        (Reply(452, "4.3.2", "not accepting messages now"), True),
        (Reply(450, "4.2.1", "The user you are trying to contact is receiving mail at a rate that"), True),
        (Reply(451, "4.7.1", "Greylisting in action, please come back later; too many new senders"), False),
        (Reply(451, "4.7.1", "Graylisted"), False),
        (Reply(450, "4.2.0", "Mailbox busy"), False),
        (Reply(452, "4.2.2", "Mailbox full"), False),
        (Reply(450, "4.1.8", "Sender address rejected: Domain not found"), False),
        (Reply(550, "5.7.1", "Too many messages, go away"), False),
        (Reply(250, "2.0.0", "rate: fine"), False),
    ],
)
def test_which_replies_mean_not_so_fast(reply, throttled):
    assert is_throttled(reply) is throttled


def test_half_as_many_after_a_rest_and_one_more_for_each_round_of_successes():
    paces = Paces(8)
    assert paces.heard("a", throttled=True, now=100.0) == 5.0
    assert paces.heard("a", throttled=True, now=101.0) == 0.0
    assert not paces.may_begin("a", 0, 104.0)
    assert paces.may_begin("b", 7, 104.0)
    assert paces.next_at(iter(["b", "a"]), 104.0) == 105.0
    assert paces.may_begin("a", 3, 105.0)
    assert not paces.may_begin("a", 4, 105.0)
    assert paces.heard("a", throttled=True, now=106.0) == 15.0
    assert paces.limit("a") == 2
    for _ in range(2):
        paces.heard("a", throttled=False, now=122.0)
    assert paces.limit("a") == 3
    for _ in range(3 + 4 + 5 + 6 + 7):
        paces.heard("a", throttled=False, now=122.0)
    assert paces.limit("a") == 8
    assert paces.heard("a", throttled=True, now=200.0) == 5.0


def test_a_rate_keeps_its_distance():
    paces = Paces(10, rate=2.0)
    paces.began("a", 100.0)
    assert not paces.may_begin("a", 1, 100.4)
    assert paces.may_begin("a", 1, 100.5)
    assert paces.may_begin("b", 0, 100.1)
    assert paces.next_at(iter("a"), 100.1) == 100.5


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100)), max_size=200), st.integers(1, 20))
def test_the_limit_stays_between_one_and_the_most(steps, most):
    paces, now = Paces(most), 0.0
    for throttled, pause in steps:
        now += pause
        assert 0.0 <= paces.heard("a", throttled=throttled, now=now) <= 300.0
        assert 1 <= paces.limit("a") <= most
    assert paces.may_begin("a", 0, now + 300.0)
