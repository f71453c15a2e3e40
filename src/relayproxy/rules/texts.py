"""Texts with placeholders: values put into a text, never code, and never able to leave their place in it.

`{sender}` is the fact of that name as it was written; `{{` and `}}` are braces. Must not know where the text goes,
but for the three ways to make a value harmless: in a reply, in a header field, in an address.
"""

import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from relayproxy.api import printable
from relayproxy.model.refused import quoted
from relayproxy.rules.condition import Scope
from relayproxy.rules.conditions import find_fact
from relayproxy.rules.fact_table import FACTS
from relayproxy.rules.facts import CHECKS, Facts, Phase
from relayproxy.rules.problems import FlawError, Path, fail, guess

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_LONGEST_VALUE = 200
_WORD_ROOM = 45  # octets that fit base64-encoded into an encoded-word of 75 characters (RFC 2047 section 2)

OWN = {
    "id": "the message's id",
    "hostname": "our own name",
    "rule": "the id of the rule",
}
"""Placeholders that are no facts."""


@dataclass(frozen=True, slots=True)
class Text:
    """A compiled text: what stands between the placeholders, and the placeholders themselves."""

    parts: tuple[str | Callable[[Facts], str], ...]
    facts: frozenset[str] = frozenset()
    phase: Phase = Phase.RCPT
    rcpt: bool = False

    def render(self, facts: Facts, quote: Callable[[str], str]) -> str:
        """Return the text with each value made harmless by `quote`."""
        return "".join(part if isinstance(part, str) else quote(part(facts)) for part in self.parts)


def compile_text(text: str, at: Path, scope: Scope, rule: str) -> Text:
    """Compile a text. Raises FlawError for an unknown placeholder or a brace that stands alone."""
    parts: list[str | Callable[[Facts], str]] = []
    names: set[str] = set()
    phase, rcpt = Phase.RCPT, False
    end = 0
    for token in _TOKEN.finditer(text):
        parts.append(text[end : token.start()])
        end = token.end()
        name = token[1]
        if token[0] in ("{{", "}}"):
            parts.append(token[0][0])
        elif name is None:
            raise fail(
                "RP812", at, "a brace stands alone", f"to write one as text, double it: {token[0] * 2}"
            )
        elif name in OWN:
            parts.append(_own(name, rule))
        else:
            try:
                fact = find_fact(name, at, scope)
            except FlawError as error:
                hint = guess(name, [*FACTS, *CHECKS, *OWN])
                raise fail(
                    "RP812", at, f"there is no placeholder {{{name}}}", hint or error.flaw.hint
                ) from error
            names.add(fact.name)
            phase, rcpt = max(phase, fact.phase), rcpt or fact.rcpt
            parts.append(_fact(fact.name))
    parts.append(text[end:])
    return Text(tuple(part for part in parts if part != ""), frozenset(names), phase, rcpt)


def _own(name: str, rule: str) -> Callable[[Facts], str]:
    if name == "rule":
        return lambda _: rule
    if name == "id":
        return lambda facts: facts.mail.id
    return lambda facts: facts.world.hostname


def _fact(name: str) -> Callable[[Facts], str]:
    def tell(facts: Facts) -> str:
        return _told(facts.told(name))

    return tell


def _told(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.1f}"
        case tuple():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def for_reply(value: str) -> str:
    """Printable ASCII on one line, not too long: fit for a reply (RFC 5321 section 4.2)."""
    return printable(value, _LONGEST_VALUE)


def for_header(value: str) -> str:
    """One line without control characters, not too long; the field as a whole is then `encoded`."""
    return _CONTROL.sub(" ", value[: _LONGEST_VALUE * 2]).strip()


def for_address(value: str) -> str:
    """What can stand in a mailbox without quotes; anything else is dropped."""
    return "".join(char for char in value if char.isalnum() or char in "!#$%&'*+-/=?^_`{|}~.@")


def encoded(text: str) -> str:
    """Return a text for an unstructured field: itself if ASCII, else as encoded-words."""
    if text.isascii():
        return text
    words: list[str] = []
    piece = b""
    for char in text:
        octets = char.encode("utf-8", "replace")
        if len(piece) + len(octets) > _WORD_ROOM:
            words.append(piece.decode())
            piece = b""
        piece += octets
    words.append(piece.decode())
    return " ".join(f"=?utf-8?b?{b64encode(word.encode()).decode()}?=" for word in words)


def plain(value: Any, at: Path, what: str) -> str:
    """Return a text that must be one, printable and not empty. Raises FlawError."""
    if not isinstance(value, str):
        raise fail("RP110", at, f"{what} is text", "quote it to make it text")
    if not value.strip():
        raise fail("RP110", at, f"{what} is empty")
    if not value.isprintable():
        raise fail(
            "RP210",
            at,
            f"{what} holds a control character or a line break: {quoted(value)}",
            "write it on one line",
        )
    return value
