"""The short ways to facts say what the long ones say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.rules.asking import driver, ruleset

from relayproxy.api import Action
from relayproxy.mailauth.from_header import read_author
from relayproxy.rules.fact_table import FACTS, fact_named
from relayproxy.rules.facts import Facts, World
from relayproxy.testing.mail import make_mail

PIECES = st.lists(
    st.sampled_from(
        [
            "a",
            "b.c",
            ".",
            "@",
            "<",
            ">",
            " ",
            '"',
            "x.example",
            "X-1.Example.org",
            "-",
            ",",
            ":",
            "(",
            ")",
            "=?utf-8?q?a?=",
            "\\",
            "é",
        ]
    ),
    max_size=9,
).map("".join)
NAMES = st.sampled_from(["From", "from ", "Subject", "X-A", "x-a", "From\t", "Fr om", "", "Fröm"])


MANY = {name: fact_named(name) for name in (f"header.x-{n}" for n in range(40))}


def facts_of(raw, **more):
    return Facts(make_mail(raw), None, World({**FACTS, **more}), 0.0)


@given(PIECES)
def test_the_author_is_whom_the_strict_reading_finds(value):
    raw = f"From: {value}\r\nSubject: x\r\n\r\n".encode()
    author = read_author(make_mail(raw).message)
    assert facts_of(raw).author() == (author.local, author.domain)


@given(st.lists(st.tuples(NAMES, PIECES), max_size=4))
def test_the_author_among_several_fields(fields):
    raw = ("".join(f"{name}:{value}\r\n" for name, value in fields) + "\r\n").encode()
    mail = make_mail(raw)
    assert facts_of(raw).author()[1] == read_author(mail.message).domain


@given(st.lists(st.tuples(NAMES, PIECES, st.booleans()), max_size=5))
def test_header_fields_are_those_of_the_message(fields):
    lines = [
        f"{name}:{value}" + ("\r\n \tfolded" if folded else "") + "\r\n" for name, value, folded in fields
    ]
    raw = ("".join(lines) + "\r\nbody\r\n").encode()
    message = make_mail(raw).message
    asked = {"header.x-a": fact_named("header.x-a")}
    for facts in (facts_of(raw, **asked), facts_of(raw, **asked, **MANY)):
        for name in ("from", "subject", "x-a"):
            assert facts.header(name.encode()) == tuple(field.text for field in message.all(name))


@pytest.mark.parametrize("more", [{}, MANY])
def test_a_field_that_no_fact_has_declared_is_a_fault_and_not_nothing(more):
    with pytest.raises(KeyError):
        facts_of(b"X-B: 1\r\n\r\n", **more).header(b"x-b")


def test_every_fact_has_a_value_before_anything_is_known():
    facts = facts_of(b"")
    for name, fact in FACTS.items():
        value = facts[name]
        assert isinstance(value, tuple) == fact.many, name
        assert facts.told(name) is not None or name == "client.ip"


def test_a_fact_is_computed_once_and_anew_where_it_may_have_grown():
    made = ruleset({"id": "a", "match": {"spf": "fail", "subject": "x"}, "then": {"score": 1}})
    mail = make_mail(b"Subject: x\r\n\r\n")
    facts = Facts(mail, None, World(made.table), 0.0)
    assert (facts["spf"], facts["subject"]) == ((), "x")
    mail.note("spf", "fail")
    mail.findings += tuple(mail.noted)
    assert facts["spf"] == ()
    facts.follow(mail)
    assert facts["spf"] == ("fail",)


def test_names_of_facts():
    assert fact_named("header.List-Id").name == "header.list-id"
    assert fact_named("dkim.header.d").many
    assert fact_named("header.") is None
    assert fact_named("spf.") is None
    assert fact_named("finding.a b") is None


async def test_hold_where_the_program_can():
    talk = driver(
        {"id": "a", "match": {"subject": "x"}, "then": {"hold": "odd"}}, abilities=frozenset({"hold"})
    )
    await talk.start()
    (entry,) = talk.services.pipeline.entries
    verdict = entry.plugin.message(make_mail(b"Subject: x\r\n\r\n"))
    assert verdict.action is Action.HOLD
    assert verdict.reason == "rule a (rules.0): odd"


def test_a_from_that_hangs_careless_patterns_ends():
    for value in (
        "a" * 50_000,
        "a " * 25_000,
        "<a@" + "a-" * 20_000,
        "<" + "a." * 20_000,
        "<a@" + "a." * 20_000,
    ):
        assert facts_of(f"From: {value}\r\n\r\n".encode()).author() == ("", "")
