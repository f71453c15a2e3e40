"""Verdicts: ordered, and with the reply that goes with them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.model.reply import Reply
from relayproxy.model.verdict import Action, Verdict, accept, defer, discard, hold, reject, strongest


def test_keeping_mail_beats_dropping_it_and_refusing_beats_both():
    verdicts = [accept(), discard(), hold(), defer(), reject()]
    assert [verdict.action for verdict in sorted(verdicts, key=lambda verdict: verdict.action)] == list(
        Action
    )
    assert [verdict.action for verdict in verdicts] == list(Action)
    for weaker, stronger in itertools.combinations(verdicts, 2):
        assert strongest((weaker, stronger)) is stronger
        assert strongest((stronger, weaker)) is stronger


@given(st.lists(st.sampled_from([None, accept("a"), discard("b"), hold("c"), defer("d"), reject("e")])))
def test_the_first_of_the_strongest_wins(verdicts):
    verdicts = [one and Verdict(one.action, one.reply, str(n)) for n, one in enumerate(verdicts)]
    winner = strongest(iter(verdicts))
    given_ones = [one for one in verdicts if one is not None]
    if not given_ones:
        assert winner is None
    else:
        highest = max(one.action for one in given_ones)
        assert winner is next(one for one in given_ones if one.action is highest)


@pytest.mark.parametrize(
    ("verdict", "reply"),
    [
        (accept(), None),
        (discard("r"), None),
        (hold("r"), None),
        (defer(), Reply(451, "4.7.1", "Try again later")),
        (reject(), Reply(550, "5.7.1", "Refused by policy")),
        (defer("Busy\nreally", code=450, status="4.2.0"), Reply(450, "4.2.0", "Busy\nreally")),
        (reject("No", code=554, status=""), Reply(554, "", "No")),
    ],
)
def test_what_a_verdict_says(verdict, reply):
    assert verdict.reply == reply


def test_the_reason_is_for_the_log_alone():
    for make in (defer, reject):
        verdict = make("words", reason="because")
        assert verdict.reason == "because"
        assert "because" not in str(verdict.reply)
    assert [make("because").reason for make in (accept, discard, hold)] == ["because"] * 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: defer("x", code=550, status="5.7.1"),
        lambda: reject("x", code=451, status="4.7.1"),
        lambda: reject("x", code=250, status="2.0.0"),
        lambda: Verdict(Action.REJECT),
        lambda: Verdict(Action.DEFER, Reply(550, "5.7.1", "x")),
        lambda: reject("two\r\n250 Ok"),
        lambda: reject("grüße"),
        lambda: defer("x", status="5.7.1"),
    ],
)
def test_a_verdict_and_its_reply_agree(make):
    with pytest.raises(ValueError):
        make()
