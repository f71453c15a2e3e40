"""Write docs/rules-reference.md from the tables of the rule language, so that the page has all there is.

Must not hold a fact about any single row.
"""
# ruff: noqa: INP001  (a folder of pages is no package)

from collections.abc import Iterable, Sequence

from relayproxy.rules.action_table import ACTIONS
from relayproxy.rules.cases import CLIENT, EXPECT, GIVEN
from relayproxy.rules.fact_table import FACTS, FAMILIES
from relayproxy.rules.facts import CHECKS, Kind, Phase
from relayproxy.rules.operators import OPERATORS
from relayproxy.rules.texts import OWN

_INTRO = """\
# Rules: facts, operators, actions

Written by `make docs` from the tables that check the rules. How they work together is in [Rules](rules.md).
"""
_MODIFIERS = (
    ("in_list", "all but numbers and booleans", "it is in the list of that name"),
    ("not", "all", "the condition behind it does not hold for any value"),
    ("every", "facts with many values", "there is a value, and the condition holds for all"),
    ("between", "time", 'from the first time of day until the second: `["22:00", "06:00"]`'),
    ("zone", "time, weekday", "the time zone, such as `Europe/Madrid`; UTC without"),
)


def render() -> str:
    """Return the page."""
    return "\n".join((_INTRO, *_facts(), *_operators(), *_actions(), *_tests()))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _facts() -> Iterable[str]:
    yield "## Facts\n"
    yield "`many`: any number of values. Known at RCPT, or when the message is there.\n"
    rows = [
        (
            f"`{fact.name}`",
            fact.kind.value + (", many" if fact.many else ""),
            "RCPT" if fact.phase is Phase.RCPT else "message",
            fact.doc + (f": {', '.join(fact.words)}" if fact.words and ":" not in fact.doc else ""),
        )
        for fact in FACTS.values()
    ]
    rows += [(f"`{family.shape}`", "", "message", family.doc) for family in FAMILIES]
    for method, (plugin, phase) in CHECKS.items():
        when = "RCPT" if phase is Phase.RCPT else "message"
        rows.append(
            (
                f"`{method}`",
                "word, many",
                when,
                f"what the plugin `{plugin}` found, as with `finding.{method}`",
            )
        )
    yield _table(("fact", "kind", "known at", ""), rows)


def _operators() -> Iterable[str]:
    yield "## Operators\n"
    rows = [
        (f"`{row.name}`", ", ".join(k.value for k in Kind if k in row.kinds), row.doc)
        for row in OPERATORS.values()
    ]
    rows += [(f"`{name}`", kinds, doc) for name, kinds, doc in _MODIFIERS]
    yield _table(("operator", "compares", ""), rows)


def _actions() -> Iterable[str]:
    yield "## Actions\n"
    rows = [
        (
            f"`{row.name}`",
            "RCPT" if row.phase is Phase.RCPT else "message",
            row.doc + ("; needs a spool" if row.needs == "hold" else ""),
        )
        for row in ACTIONS.values()
    ]
    yield _table(("action", "possible at", ""), rows)
    yield "Texts may name any fact in braces, and these:\n"
    yield _table(("placeholder", ""), [(f"`{{{name}}}`", doc) for name, doc in OWN.items()])


def _tests() -> Iterable[str]:
    yield "## Tests\n"
    yield _table(("given", ""), [(f"`{name}`", doc) for name, doc in GIVEN.items()])
    yield f"`client` has {', '.join(f'`{name}`' for name in CLIENT)}.\n"
    yield _table(("expect", ""), [(f"`{name}`", doc) for name, doc in EXPECT.items()])
