"""`when:`: expressions in CEL over the facts, and what keeps one from being dear, wrong or silent."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.rules.asking import MESSAGE, driver, flaws_of, ruleset

from relayproxy.api import Action, Finding
from relayproxy.rules import cel as adapter
from relayproxy.rules.cel import MOST_TEXT, MOST_VALUES
from relayproxy.rules.compiler import compile_rules
from relayproxy.rules.engine import ask
from relayproxy.rules.expression import LONGEST, read_expression
from relayproxy.rules.facts import Facts, Phase, World
from relayproxy.testing.mail import make_mail

pytest.importorskip("cel")


def rule(when, **more):
    return {"id": "a", "when": when, "then": {"score": 1}, **more}


def facts_for(made, raw=MESSAGE, **mail):
    one = make_mail(raw, **mail)
    return Facts(one, one.envelope.recipients[0], World(made.table, frozenset({"example.net"})), 0.0)


def holds(when, raw=MESSAGE, **mail):
    made, flaws = compile_rules([rule(when)])
    assert [flaw for flaw in flaws if flaw.severity == "error"] == []
    return made.rules[0].condition.holds(facts_for(made, raw, **mail))


FILES = (
    b"From: a@b.example\r\nReceived: one\r\nReceived: two\r\nList-Id: <news.example.org>\r\n"
    b"Content-Type: application/zip; name=a.zip\r\n\r\nx\r\n"
)


@pytest.mark.parametrize(
    ("when", "mail"),
    [
        ("sender.domain == 'example.org' && subject == 'hello'", {}),
        ('subject.startsWith("hel") || zzz.y'.replace(" || zzz.y", ""), {}),
        ("sender == 'a@example.org' && sender.local == 'a'", {}),
        ("client.ip.startsWith('192.0.2.')", {}),
        ("size > 10 && size < 1000000 && size(subject) == 5", {}),
        ("recipients.count == 1 && recipient.is_local && !client.tls", {}),
        ("subject.matches('^h[a-z]+o$') && subject.contains('ell')", {}),
        ("from.domain in ['example.org', 'example.net']", {}),
        ('header["received"].exists(x, x == "two") && size(header["Received"]) == 2', {"raw": FILES}),
        ('first_header["list-id"].endsWith("example.org>")', {"raw": FILES}),
        ('header_count["received"] >= 2 && header_count["list-id"] == 1', {"raw": FILES}),
        ("attachment.extension.all(x, x == 'zip') && attachments.count > 0", {"raw": FILES}),
        ("attachment.name.filter(x, x.endsWith('.zip')).size() == 1", {"raw": FILES}),
        ("header['received'].exists(x, x in ['two', 'three'])", {"raw": FILES}),
        ("header['received'][1] == 'two' && [subject, 'x'][1] == 'x'", {"raw": FILES}),
        ("(subject).matches('^HELLO$') && 'abc'.matches('b')", {}),
        ("header['received'].exists(x, (x + '!').endsWith('!'))", {"raw": FILES}),
        ("!('fail' in spf)", {}),
        ("spf.exists(x, x == 'fail')", {"findings": [Finding("spf", "fail")]}),
        ('dkim["header.d"].exists(x, x == from.domain)',
         {"findings": [Finding("dkim", "pass", props={"header.d": "example.org"})]}),
        ('finding["rspamd.score"] + 1.0 > 4.5', {"findings": [Finding("rspamd", "hit", 4.0)]}),
        ("score >= 2.5 ? true : false", {"findings": [Finding("x", "hit", 3.0)]}),
        ("// the boss\n  subject == 'hello'  // greets", {}),
        ("'it\\'s' != subject && r'a\\b' != subject", {}),
        ("size(tags) == 0 && direction == 'inbound'", {}),
        ("double(size) / 2.0 > 1.0 && string(size) != ''", {}),
    ],
)  # fmt: skip
def test_what_holds(when, mail):
    assert holds(when, **mail)


@pytest.mark.parametrize(
    "when", ["subject == 'other'", "client.tls", "attachments.count > 0", 'size(header["x"]) > 0', "!true"]
)
def test_what_does_not(when):
    assert not holds(when)


@pytest.mark.parametrize(
    ("when", "code"),
    [
        ("sender.domian == 'x'", "RP801"),
        ("sendr == 'x'", "RP801"),
        ("header.subject == 'x'", "RP826"),
        ("spf.score > 1.0", "RP826"),
        ("header == 'x'", "RP826"),
        ('header["a b"].size() > 0', "RP801"),
        ("header[1] == 'x'", "RP826"),
        ("subject ==", "RP826"),
        ("subject = 'x'", "RP826"),
        ("(subject == 'x'", "RP826"),
        ("subject == 'x", "RP826"),
        ("subject == 5 || subject > 5", "RP826"),
        ("subject == 5", "RP826"),
        ("5 != subject", "RP826"),
        ("size == '5'", "RP826"),
        ("client.tls == 'true'", "RP826"),
        ("spf == 'fail'", "RP826"),
        ('header["x"] == true', "RP826"),
        ("subject", "RP826"),
        ("size", "RP826"),
        ("size > '10 MB'", "RP826"),
        ("size + subject > 1", "RP826"),
        ("attachment.name.startsWith('x')", "RP826"),
        ("subject.lower() == 'x'", "RP826"),
        ("lower(subject) == 'x'", "RP826"),
        ("subject.exists(x, x == 'a')", "RP826"),
        ("subject.contains('a').x", "RP826"),
        ("tags.exists(subject, subject == 'x')", "RP826"),
        ("x == 'a' && tags.exists(x, x == 'a')", "RP801"),
        ("tags.exists(x, x == 'a') && x == 'b'", "RP826"),
        ("tags.exists(x, x.y == 'a')", "RP826"),
        ("tags.exists(x, attachment.name.exists(y, y == x))", "RP827"),
        ("tags.exists(x, (x + x + x + x + x + x).contains('a'))", "RP827"),
        ("tags.exists(x, x in [subject, sender])", "RP827"),
        ("tags.exists(x, size([[x]]) > 0)", "RP827"),
        ("tags.map(x, x).size() > 0", "RP826"),
        ("tags.exists(x, " + " || ".join(["x.matches('a')"] * 5) + ")", "RP827"),
        ("subject.matches(sender)", "RP827"),
        ("subject.matches('((a{900}){900}){9}')", "RP805"),
        ("subject.matches('(?=a)')", "RP805"),
        ("subject == '" + "a" * LONGEST + "'", "RP827"),
        ("(" * 13 + "true" + ")" * 13, "RP827"),
        ("subject == 'x'; true", "RP826"),
        ("subject == {'a': 1}", "RP826"),
        ("import('x')", "RP826"),
        ("", "RP110"),
        (True, "RP110"),
        (["subject == 'x'"], "RP110"),
    ],
)
def test_what_is_no_expression(when, code):
    assert flaws_of(rule(when)) == [code]


def test_what_some_mail_would_show_is_a_warning():
    made, (flaw,) = compile_rules([rule("attachment.name[0] == 'a.exe'")])
    assert (flaw.code, flaw.severity, len(made)) == ("RP829", "warning", 1)
    assert flaws_of(rule("size(attachment.name) > 0 && attachment.name[0] == 'a.exe'")) == []
    assert flaws_of(rule("1000 / size > 1")) == ["RP829"]


def test_text_in_capitals_is_never_the_same():
    _, (flaw,) = compile_rules([rule("subject == 'Hello'")])
    assert (flaw.code, flaw.severity, flaw.hint) == ("RP829", "warning", "write 'hello'")
    assert flaws_of(rule("subject.matches('\\\\S')")) == []


def test_both_match_and_when_must_hold_and_match_keeps_its_index():
    made = ruleset(rule("subject == 'hello'", match={"sender.domain": "example.org"}))
    assert made.rules[0].condition.keys is not None
    assert ask(made.stages[Phase.MESSAGE], facts_for(made)) is not None
    assert ask(made.stages[Phase.MESSAGE], facts_for(made, sender="a@example.net")) is None


def test_the_phase_is_that_of_its_facts():
    early = {"id": "a", "when": "sender.domain == 'bad.example'", "then": {"reject": "no"}}
    late = {"id": "b", "when": "subject == 'x' && client.tls", "then": {"reject": "no"}}
    made = ruleset(early, late)
    assert [rule.phase for rule in made.rules] == [Phase.RCPT, Phase.MESSAGE]
    assert made.rules[1].why == "it asks about subject"


async def test_in_a_session():
    talk = driver(
        {"id": "a", "when": "sender.domain == 'bad.example'", "then": {"reject": "no"}},
        {"id": "b", "when": "subject.contains('ell') && recipient.local == 'b'", "then": {"reject": "late"}},
    )
    assert (await talk.deliver(MESSAGE, sender="a@bad.example")).reply.text == "no"
    assert (await talk.deliver(MESSAGE, recipients=("b@example.net",))).reply.text.startswith("late")
    assert (await talk.deliver(MESSAGE, recipients=("c@example.net",))).reply.code == 250


async def test_recipients_that_it_asks_about_come_apart():
    talk = driver({"id": "b", "when": "subject == 'x' && recipient.local == 'b'", "then": {"reject": "late"}})
    said = await talk.say("EHLO x", "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.net>")
    said += await talk.say("RCPT TO:<c@example.net>")
    assert [reply.code for reply in said[2:]] == [250, 452]


FAULTS = {
    "many values": ("header['x'].exists(v, v == 'a')", b"X: b\r\n" * (MOST_VALUES + 1)),
    "much text": ("subject.contains('a')", b"Subject: " + b"b" * (MOST_TEXT + 1) + b"\r\n"),
    "much text in all": ("size(header['x']) > 3", b"X: " + b"b" * MOST_TEXT + b"\r\nX: b\r\n"),
    "no first": ("header['x'][0] == 'a'", b"Y: b\r\n"),
    "nought": ("1 / header_count['x'] > 0", b"Y: b\r\n"),
}


@pytest.mark.parametrize(("when", "head"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize(
    ("on_error", "action"),
    [("defer", Action.DEFER), ("reject", Action.REJECT), ("skip", None)],
)
def test_what_can_not_be_answered_is_for_on_error(when, head, on_error, action):
    made, _ = compile_rules([rule(when, on_error=on_error)])
    with pytest.raises(StopIteration) as end:
        next(ask(made.stages[Phase.MESSAGE], facts_for(made, head + b"\r\n")))
    result = end.value.value
    assert (result.verdict.action if result.verdict else None) is action
    assert [rule.id for rule, _ in result.faults] == ["a"]


def test_a_panic_of_the_library_is_a_fault_of_the_rule(monkeypatch):
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})

    class Program:
        asked = 0

        def execute(self, _values):
            raise panic("index out of bounds")

    monkeypatch.setitem(sys.modules, "cel", type("Cel", (), {"compile": lambda _source: Program()}))
    _, (flaw,) = compile_rules([rule("subject == 'x'")])
    assert (flaw.code, flaw.severity) == ("RP829", "warning")


def test_without_the_library_check_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cel", None)
    _, (flaw,) = compile_rules([rule("subject == 'x'")])
    assert (flaw.code, flaw.hint) == ("RP828", "pip install 'relayproxy[cel]'")
    assert flaw.path == ("rules", 0, "when")
    assert flaws_of({"id": "a", "match": {"subject": "x"}, "then": {"score": 1}}) == []


PIECES = st.sampled_from(
    [
        *(
            "subject",
            "size",
            "header",
            '["x"]',
            "tags",
            ".exists(",
            "x",
            ", ",
            ")",
            "(",
            " == ",
            "'a'",
            '"',
            "\\",
        ),
        *(" && ", "!", "1", "[", "]", ".", "?", ":", "+", "-", "//", "\n", "é", "in", ".matches('a')", "spf"),
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join))
def test_whatever_is_written_gives_flaws_and_no_exception(when):
    compile_rules([rule(when)])


def test_columns_are_those_of_what_was_written():
    from relayproxy.rules.condition import Scope

    source = 'header["list-id"].size() > 0 && sender.domain == "x"  // sender.domain'
    read = read_expression(source, (), Scope())
    assert len(read.source) == len(source)
    assert read.source.startswith("header__list_id__.size() > 0 && sender_domain == ")
    collision = read_expression('size(header["a-b"]) == size(header["a_b"])', (), Scope())
    assert {fact.name for fact in collision.facts.values()} == {"header.a-b", "header.a_b"}


def test_the_adapter_says_what_it_bounds():
    assert (adapter.MOST_VALUES, adapter.MOST_TEXT, LONGEST) == (100, 16_384, 1000)
