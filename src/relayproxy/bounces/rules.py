"""Rules that say what a bounce means and what follows: the first that matches decides.

A rule file is plain data (see rules.yaml beside this module, which is the default): each rule has a `name`, a `class`, an
`action`, and conditions that must all hold. Must not know YAML, nor where a rule file lies.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relayproxy.bounces.report import Fate, Kind, Report

CLASSES = (
    "hard", "inactive", "mailbox-full", "bad-domain", "block", "spam", "policy", "auth", "content", "too-large", "rate",
    "relay", "protocol", "network", "soft", "delayed", "complaint", "unsubscribe", "not-spam", "auto-reply", "challenge",
    "delivered", "unknown",
)  # fmt: skip
"""What a bounce can mean."""

ACTIONS = ("suppress", "count", "none")
"""What follows: the recipient is suppressed at once, after several such bounces, or nothing happens."""

_KEYS = frozenset({"name", "class", "action", "days", "kind", "said", "status", "text", "feedback"})
_NO_STATUS = "none"
_STATUS = re.compile(r"[245](?:\.(?:\d{1,3}|\*)){2}\Z|none\Z")
_MOST_RULES = 2000
_VARYING = re.compile(
    r"<[^>]{0,320}>|[^\s<>()]{1,64}@[^\s<>()]{1,255}|https?://\S{1,400}|\[[0-9a-f:.]{2,45}\]|\b\d{1,3}(?:\.\d{1,3}){3}\b|"
    r"\b(?=[a-z]*\d)[a-z0-9_-]{8,}(?:\.[a-z0-9_-]+)*|\b\d{4,}\b"
)


class RuleFault(ValueError):  # noqa: N818  (it is what is wrong with a rule)
    """A rule file that can't be used; the text says which rule and why."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Empty conditions hold always; `days` is how long a suppression lasts, 0 for ever.

    `kinds` are those of reports, `said` the actions of RFC 3464, `status` exact enhanced codes, such with `*`, or `none`.
    """

    name: str
    class_: str
    action: str
    days: int = 0
    kinds: frozenset[str] = frozenset()
    said: frozenset[str] = frozenset()
    status: tuple[str, ...] = ()
    text: tuple[re.Pattern[str], ...] = ()
    feedback: frozenset[str] = frozenset()

    def matches(self, report: Report, fate: Fate, words: str) -> bool:
        """Whether all conditions hold; `words` is the diagnosis in lower case."""
        return (
            (not self.kinds or report.kind.value in self.kinds)
            and (not self.said or fate.action in self.said)
            and (not self.feedback or report.feedback in self.feedback)
            and (not self.status or any(_covers(one, fate.status) for one in self.status))
            and (not self.text or any(pattern.search(words) for pattern in self.text))
        )


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a bounce means: its class, what follows, for how many days (0: for ever), and by which rule ("" by none)."""

    class_: str
    action: str
    days: int = 0
    rule: str = ""


UNKNOWN = Judgement("unknown", "none")
"""No rule matches."""


def classify(rules: Sequence[Rule], report: Report, fate: Fate) -> Judgement:
    """Return what the first matching rule says of one recipient."""
    words = fate.diagnosis.lower()
    for rule in rules:
        if rule.matches(report, fate, words):
            return Judgement(rule.class_, rule.action, rule.days, rule.name)
    return UNKNOWN


def normal_form(text: str) -> str:
    """Return a diagnosis without what differs from one bounce to the next: addresses, numbers, links, ids."""
    return _VARYING.sub("*", text.lower())[:300].strip()


def _covers(pattern: str, status: str) -> bool:
    if "*" not in pattern:
        return pattern == (status or _NO_STATUS)
    return len(parts := status.split(".")) == 3 and all(
        wanted in ("*", part) for wanted, part in zip(pattern.split("."), parts, strict=True)
    )


# -- reading -----------------------------------------------------------------------------------------------------


def rules_of(value: Any) -> tuple[Rule, ...]:
    """Return the rules of a parsed rule file: `{version: 1, rules: [...]}`. Raises RuleFault."""
    if (
        not isinstance(value, Mapping)
        or value.get("version") != 1
        or not isinstance(value.get("rules"), list)
    ):
        raise RuleFault("a rule file has `version: 1` and a list `rules`")
    unknown = set(value) - {"version", "rules"}
    if unknown:
        raise RuleFault(f"there is no key {_shown(unknown)}: a rule file has `version` and `rules`")
    entries = value["rules"]
    if len(entries) > _MOST_RULES:
        raise RuleFault(f"there are more than {_MOST_RULES} rules")
    rules = tuple(_rule(number, entry) for number, entry in enumerate(entries, 1))
    names = [rule.name for rule in rules]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise RuleFault(f"two rules are called {_shown(twice)}")
    return rules


def _rule(number: int, entry: Any) -> Rule:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise RuleFault(f"rule {number} has no name")
    where = f"rule {entry['name']!r}"
    unknown = set(entry) - _KEYS
    if unknown:
        raise RuleFault(f"{where}: there is no key {_shown(unknown)}; known are {', '.join(sorted(_KEYS))}")
    days = entry.get("days", 0)
    if type(days) is not int or not 0 <= days <= 3650:
        raise RuleFault(f"{where}: `days` is a number from 0 (for ever) to 3650")
    status = _texts(where, entry, "status")
    for one in status:
        if not _STATUS.match(one):
            raise RuleFault(f"{where}: {one!r} is no status: write '5.1.1' or '5.1.*', in quotes")
    return Rule(
        entry["name"],
        _word(where, entry, "class", CLASSES),
        _word(where, entry, "action", ACTIONS),
        days,
        frozenset(_words(where, entry, "kind", [kind.value for kind in Kind])),
        frozenset(_words(where, entry, "said", ["failed", "delayed", "delivered", "relayed", "expanded"])),
        status,
        tuple(_pattern(where, text) for text in _texts(where, entry, "text")),
        frozenset(_texts(where, entry, "feedback")),
    )


def _pattern(where: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise RuleFault(f"{where}: {text!r} is not a regular expression: {error}") from None


def _texts(where: str, entry: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = entry.get(key, [])
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(one, str) and one for one in listed):
        raise RuleFault(f"{where}: `{key}` is a text or a list of texts")
    return tuple(listed)


def _words(where: str, entry: Mapping[str, Any], key: str, known: Iterable[str]) -> tuple[str, ...]:
    given = _texts(where, entry, key)
    for one in given:
        if one not in known:
            raise RuleFault(f"{where}: `{key}` {one!r} is none of {', '.join(known)}")
    return given


def _word(where: str, entry: Mapping[str, Any], key: str, known: Sequence[str]) -> str:
    value = entry.get(key)
    if value not in known:
        raise RuleFault(f"{where}: `{key}` is one of {', '.join(known)}")
    return str(value)


def _shown(names: Iterable[Any]) -> str:
    return ", ".join(repr(name) for name in sorted(map(str, names)))
