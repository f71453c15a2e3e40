"""What tests of rules share: rules written as YAML has them, asked about a mail."""

from relayproxy.builtin.rules import Rules, RulesSettings
from relayproxy.rules.compiler import compile_rules
from relayproxy.rules.engine import ask
from relayproxy.rules.facts import Facts, Phase, World
from relayproxy.testing.mail import make_mail
from relayproxy.testing.session import SessionDriver

MESSAGE = b"From: Ana <ana@example.org>\r\nTo: b@example.net\r\nSubject: hello\r\n\r\nHi\r\n"


def ruleset(*rules, lists=None, abilities=frozenset(), pipeline=None, routes=()):
    """Compile rules that have no mistake."""
    made, flaws = compile_rules(list(rules), lists, abilities=abilities, pipeline=pipeline, routes=routes)
    assert flaws == []
    return made


def holds(match, *, raw=MESSAGE, now=0.0, rcpt=None, domains=frozenset(), **mail):
    """Whether a condition holds for a mail; asked of the closure and, as a rule is, of the index too."""
    made = ruleset({"id": "a", "match": match, "then": {"score": 1}})
    one = make_mail(raw, **mail)
    world = World(made.table, domains)
    recipient = rcpt or one.envelope.recipients[0]
    answer = made.rules[0].condition.holds(Facts(one, recipient, world, now))
    asking = ask(made.stages[Phase.MESSAGE], Facts(one, recipient, world, now))
    found = False
    if asking is not None:
        try:
            next(asking)
        except StopIteration as end:
            found = bool(end.value.hits)
    assert found == answer
    return answer


def flaws_of(*rules, lists=None):
    """Return the codes of what is wrong."""
    return [flaw.code for flaw in compile_rules(list(rules), lists)[1]]


def driver(*rules, lists=None, abilities=frozenset(), behind=(), **session):
    """Return a session whose pipeline is the rules, and the plugins `behind` them."""
    pipeline = ["rules", *(one.name for one in behind)]
    routes = tuple(session.get("upstreams", ()))
    made = ruleset(*rules, lists=lists, abilities=abilities, pipeline=pipeline, routes=routes)
    return SessionDriver(Rules(RulesSettings().with_rules(made)), *behind, **session)
