"""Rules that the index leaves out change nothing: what comes of a message is what asking every rule would come to."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rules.test_index import CONDITION

from relayproxy.api import Finding
from relayproxy.rules import engine
from relayproxy.rules.compiler import compile_rules
from relayproxy.rules.facts import Facts, Phase, World
from relayproxy.testing.mail import make_mail

WORD = st.sampled_from(["a", "b", "ab", "a.b"])
DOMAIN = st.sampled_from(["a.example", "b.a.example", "example"])
MORE = st.one_of(
    CONDITION,
    st.builds(lambda v: {"recipient": v}, st.sampled_from(["a@a.example", "b@example"])),
    st.builds(lambda v: {"recipient.domain": {"under": v}}, DOMAIN),
    st.builds(lambda v: {"from.domain": v}, DOMAIN),
    st.builds(lambda v: {"from.name": {"contains": v}}, WORD),
    st.builds(lambda v: {"client.helo": {"glob": f"{v}*"}}, WORD),
    st.builds(lambda v: {"client.helo": {"regex": f"{v}$"}, "client.tls": False}, WORD),
    st.builds(lambda v: {"attachment.extension": v}, WORD),
    st.builds(lambda v: {"header.x": {"every": {"starts_with": v}}}, WORD),
    st.builds(lambda v: {"header_count.x": v}, st.integers(0, 2)),
    st.builds(lambda v: {"spf": v}, st.sampled_from(["pass", "fail"])),
    st.builds(lambda v: {"tags": v}, WORD),
    st.builds(lambda v: {"mime.unseen": v}, st.booleans()),
)
THEN = st.one_of(
    st.builds(lambda n: {"score": n}, st.integers(1, 3)),
    st.builds(lambda v: {"tag": v}, WORD),
    st.builds(lambda v: {"add_header": {"X-R": v}}, WORD),
    st.sampled_from([{"reject": "no"}, {"defer": "later"}, {"accept": True}, {"discard": True}]),
)
RULE = st.builds(
    lambda match, then, mode: {"match": match, "then": then, "mode": mode},
    MORE,
    THEN,
    st.sampled_from(["enforce", "enforce", "observe"]),
)
MAIL = st.fixed_dictionaries(
    {
        "subject": st.sampled_from(["a", "ab", "bab", "a.b", "", "aab b"]),
        "x": st.lists(WORD, max_size=3),
        "domain": DOMAIN,
        "recipient": st.sampled_from(["a@a.example", "b@example", "c@b.a.example"]),
        "author": st.sampled_from(["a <a@a.example>", "ab <x@b.a.example>", "x@example", "a@x, b@y", ""]),
        "helo": WORD,
        "net": st.integers(0, 6),
        "file": st.sampled_from(["", "x.a", "x.ab", "x"]),
        "spf": st.sampled_from([(), ("pass",), ("fail",)]),
    }
)


def made_mail(given):
    kind = f"Content-Type: application/zip; name={given['file']}\r\n" if given["file"] else ""
    head = "".join(f"X: {value}\r\n" for value in given["x"])
    raw = f"From: {given['author']}\r\n{head}Subject: {given['subject']}\r\n{kind}\r\nx\r\n"
    mail = make_mail(
        raw.encode(),
        sender=f"x@{given['domain']}",
        recipients=(given["recipient"],),
        ip=f"192.0.{given['net']}.7",
        findings=[Finding("spf", result) for result in given["spf"]],
    )
    mail.client = replace(mail.client, helo=given["helo"])
    return mail


def ended(asking):
    if asking is None:
        return engine.Result()
    try:
        next(asking)
    except StopIteration as end:
        return end.value
    raise AssertionError("no rule waits for anything")


def told(result):
    return (
        result.verdict,
        [(hit.rule.id, hit.did, hit.points) for hit in result.hits],
        [(rule.id, act) for rule, act in result.fields],
        result.tags,
        result.decided and result.decided.id,
        result.faults,
    )


@settings(max_examples=250)
@given(st.lists(RULE, min_size=1, max_size=12), st.lists(MAIL, min_size=1, max_size=4))
def test_what_comes_of_a_message_is_what_asking_every_rule_comes_to(rules, mails):
    numbered = [{"id": f"r{number}", **rule} for number, rule in enumerate(rules)]
    made, flaws = compile_rules(numbered)
    assert [flaw for flaw in flaws if flaw.severity == "error"] == []
    world = World(made.table)
    for one in mails:  # more than one: what is kept of steady facts belongs to their values
        mail = made_mail(one)
        for phase in Phase:
            stage = made.stages.get(phase)
            if stage is None:
                continue
            recipient = mail.envelope.recipients[0]
            by_index = ended(engine.ask(stage, Facts(mail, recipient, world, 0.0)))
            everything = range(len(stage.rules))
            by_all = ended(engine._evaluate(stage, everything, Facts(mail, recipient, world, 0.0)))
            assert told(by_index) == told(by_all)
