"""What the arguments of actions mean: each is compiled to values of acts.py, or is a mistake.

Must not know how mail is edited or answered, nor what an action is called.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from relayproxy.api import Action, AddHeader
from relayproxy.model.durations import parse_rate
from relayproxy.model.refused import Refused, quoted
from relayproxy.rules.acts import Act, Address, Decide, Field, Note, Onward, Rate, Score, Tag
from relayproxy.rules.condition import Scope
from relayproxy.rules.operators import as_list
from relayproxy.rules.problems import Path, fail, guess
from relayproxy.rules.texts import Text, compile_text, plain

_STATUS = re.compile(r"([245])\.[0-9]{1,3}\.[0-9]{1,3}\Z")
_TAG = re.compile(r"[A-Za-z0-9_.-]{1,63}\Z")
_FIXED = frozenset({"received", "from", "date", "message-id"})
_ONCE = frozenset({"subject", "to", "cc", "reply-to", "sender", "in-reply-to", "references", "bcc"})
_TOP = 1_000_000.0


def _mapping(value: Mapping[str, Any], at: Path, known: tuple[str, ...]) -> None:
    for key in value:
        if key not in known:
            raise fail(
                "RP101",
                (*at, key),
                f"unknown key {quoted(key)}",
                guess(str(key), known, "keys here"),
                on_key=True,
            )


_REPLIES = {
    Action.REJECT: (550, "5.7.1", "Refused by policy", 5),
    Action.DEFER: (451, "4.7.1", "Try again later", 4),
}


def reply(action: Action) -> Callable[[Any, Path, Scope, str], tuple[Act, ...]]:
    """Return the compiler of an action that answers: `true`, a text, or code, status and text."""

    def compile_reply(value: Any, at: Path, scope: Scope, rule: str) -> tuple[Act, ...]:
        code, status, text, first = _REPLIES[action]
        where = at
        if isinstance(value, Mapping):
            _mapping(value, at, ("code", "status", "text"))
            code = _code(value.get("code", code), (*at, "code"), first)
            status = _enhanced(value.get("status", status), (*at, "status"), first)
            text, where = value.get("text", text), (*at, "text")
        elif value is not True:
            text = value
        if isinstance(text, int):
            raise fail("RP813", at, "a code alone is no reply", f"write {{code: {text}, text: ...}}")
        words = plain(text, where, "the reply's text")
        if not words.isascii():
            raise fail(
                "RP813", where, "a reply is US-ASCII (RFC 5321 section 4.2)", "write it without accents"
            )
        lead = re.match(r"([245][0-9]{2})[ -]", words)
        if lead:
            raise fail(
                "RP813",
                where,
                f"the text begins with a code, {lead[1]}",
                f"write {{code: {lead[1]}, text: ...}}",
            )
        return (Decide(action, compile_text(words, where, scope, rule), code, status),)

    return compile_reply


def _code(value: Any, at: Path, first: int) -> int:
    kind, other = ("reject", "defer") if first == 5 else ("defer", "reject")
    if not isinstance(value, int) or isinstance(value, bool) or not first * 100 <= value < first * 100 + 60:
        opposite = isinstance(value, int) and value // 100 == 9 - first
        hint = f"for {9 - first}yz write {other}" if opposite else f"write {first}50"
        raise fail("RP813", at, f"{quoted(value)} is no code of a {kind}: {first}00 to {first}59", hint)
    if value == 421:
        raise fail("RP813", at, "421 closes the connection, which is not for a rule to do", "write 450")
    return value


def _enhanced(value: Any, at: Path, first: int) -> str:
    if isinstance(value, float):
        raise fail(
            "RP813", at, "YAML reads this as a number", "write the status with three parts, such as 5.7.1"
        )
    found = _STATUS.match(value) if isinstance(value, str) else None
    if found is None or found[1] != str(first):
        raise fail("RP813", at, f"{quoted(value)} is no status of this code", f"write {first}.7.1 (RFC 3463)")
    return str(value)


def reason(action: Action) -> Callable[[Any, Path, Scope, str], tuple[Act, ...]]:
    """Return the compiler of an action whose argument is `true` or why."""

    def compile_reason(value: Any, at: Path, scope: Scope, rule: str) -> tuple[Act, ...]:
        text = "" if value is True else plain(value, at, "the reason")
        return (Decide(action, compile_text(text, at, scope, rule)),)

    return compile_reason


def accept(value: Any, at: Path, scope: Scope, rule: str) -> tuple[Act, ...]:
    """Compile `true`, or the checks to skip."""
    skip: frozenset[str] = frozenset()
    if isinstance(value, Mapping):
        _mapping(value, at, ("skip",))
        names = as_list(value.get("skip", ()))
        for name in names:
            if name not in scope.skippable:
                hint = (
                    guess(str(name), scope.skippable, "after rules")
                    or "leave it out: accept alone ends the rules"
                )
                raise fail("RP821", (*at, "skip"), f"{quoted(name)} can't be skipped", hint)
        skip = frozenset(names)
    elif value is not True:
        raise fail(
            "RP110",
            at,
            "accept takes true, or what to skip",
            "write accept: true, or accept: {skip: [greylist]}",
        )
    return (Decide(Action.ACCEPT, compile_text("", at, scope, rule), skip=skip),)


def score(value: Any, at: Path, scope: Scope, rule: str) -> tuple[Act, ...]:  # noqa: ARG001  (one shape for all)
    """Compile points, or points and the symbol that they are under."""
    symbol = ""
    points = value
    if isinstance(value, Mapping):
        _mapping(value, at, ("add", "symbol"))
        if "add" not in value:
            raise fail("RP102", at, "key 'add' is missing", "write {add: 3, symbol: NAME}", on_key=True)
        points = value["add"]
        symbol = value.get("symbol", "")
        if not isinstance(symbol, str) or (symbol and not _TAG.match(symbol)):
            raise fail(
                "RP209",
                (*at, "symbol"),
                f"{quoted(symbol)} is no name",
                "letters, digits, dots, dashes, underscores",
            )
    if isinstance(points, bool) or not isinstance(points, (int, float)) or not -_TOP <= points <= _TOP:
        raise fail("RP110", at, "a score is a number", "write score: 3")
    return (Score(float(points), symbol),)


def tag(value: Any, at: Path, scope: Scope, rule: str) -> tuple[Act, ...]:  # noqa: ARG001  (one shape for all)
    """Compile the names of tags."""
    names = as_list(value)
    for name in names:
        if not isinstance(name, str) or not _TAG.match(name):
            raise fail(
                "RP209",
                at,
                f"{quoted(name)} is no name of a tag",
                "letters, digits, dots, dashes, underscores",
            )
    return (Tag(tuple(names)),)


def fields(how: str) -> Callable[[Any, Path, Scope, str], tuple[Act, ...]]:
    """Return the compiler of values by field name; `how` is "add" or "replace"."""

    def compile_fields(value: Any, at: Path, scope: Scope, rule: str) -> tuple[Act, ...]:
        if not isinstance(value, Mapping) or not value:
            raise fail("RP110", at, "a mapping of names and values is wanted", "write {X-Checked: yes by us}")
        acts = []
        for name, given in value.items():
            where = (*at, name)
            _field_name(name, where)
            if how == "add" and name.lower() in _ONCE:
                raise fail(
                    "RP809",
                    where,
                    f"a message has one {name} at most (RFC 5322 section 3.6)",
                    f"use replace_header: {{{name}: ...}}",
                    on_key=True,
                )
            text = compile_text(plain(given, where, "the value"), where, scope, rule)
            if text.rcpt:
                raise fail(
                    "RP812", where, "a recipient's name in a header would give away a Bcc", "leave it out"
                )
            acts.append(Field(how, name, text))
        return tuple(acts)

    return compile_fields


def _field_name(name: Any, at: Path) -> None:
    try:
        AddHeader(str(name), "")
    except ValueError as error:
        raise fail(
            "RP209",
            at,
            f"{quoted(name)} is no name of a header field",
            "letters, digits and dashes",
            on_key=True,
        ) from error
    if str(name).lower() in _FIXED:
        raise fail("RP809", at, f"{name} is not for a rule to change", "", on_key=True)


def remove(value: Any, at: Path, scope: Scope, rule: str) -> tuple[Act, ...]:  # noqa: ARG001  (one shape for all)
    """Compile the names of fields."""
    for name in as_list(value):
        _field_name(plain(name, at, "the name"), at)
    return tuple(Field("remove", name) for name in as_list(value))


def prefix(value: Any, at: Path, scope: Scope, rule: str) -> tuple[Act, ...]:
    """Compile a text that goes before the subject."""
    text = compile_text(plain(value, at, "the prefix"), at, scope, rule)
    if text.rcpt:
        raise fail("RP812", at, "a recipient's name in a header would give away a Bcc", "leave it out")
    return (Field("prefix", "Subject", text),)


def _address(value: Any, at: Path, scope: Scope, rule: str) -> Text:
    words = plain(value, at, "the address")
    text = compile_text(words, at, scope, rule)
    fixed = all(isinstance(part, str) for part in text.parts)
    if fixed and (words.count("@") != 1 or words.startswith("@") or words.endswith("@") or " " in words):
        raise fail("RP822", at, f"{quoted(words)} is no address", "write one such as archive@example.org")
    return text


def redirect(value: Any, at: Path, scope: Scope, rule: str) -> tuple[Act, ...]:
    """Compile the address that takes the place of a recipient."""
    return (Address("redirect", _address(value, at, scope, rule)),)


def rewrite(value: Any, at: Path, scope: Scope, rule: str) -> tuple[Act, ...]:
    """Compile the parts of an address that change."""
    if not isinstance(value, Mapping) or not value:
        raise fail(
            "RP110",
            at,
            "a mapping with local or domain is wanted",
            "write {domain: example.org}; to another address: redirect",
        )
    _mapping(value, at, ("local", "domain"))
    acts = []
    for key, given in value.items():
        text = plain(given, (*at, key), f"the {key}")
        if "@" in text:
            raise fail("RP822", (*at, key), f"{quoted(text)} is a whole address", "write redirect: ADDRESS")
        acts.append(Address(key, compile_text(text, (*at, key), scope, rule)))
    return tuple(acts)


def copy(value: Any, at: Path, scope: Scope, rule: str) -> tuple[Act, ...]:
    """Compile addresses that get the message as well."""
    return tuple(Address("add", _address(item, at, scope, rule)) for item in as_list(value))


def rate(value: Any, at: Path, scope: Scope, rule: str) -> tuple[Act, ...]:
    """Compile what is counted, and how much of it there may be."""
    if not isinstance(value, Mapping):
        raise fail("RP110", at, "a mapping is wanted", 'write {key: "{client.login}", rate: 100/h}')
    _mapping(value, at, ("key", "rate", "burst", "count"))
    for key in ("key", "rate"):
        if key not in value:
            raise fail(
                "RP102",
                at,
                f"key '{key}' is missing",
                'write {key: "{client.login}", rate: 100/h}',
                on_key=True,
            )
    try:
        rate = parse_rate(value["rate"])
    except Refused as error:
        raise fail("RP823", (*at, "rate"), error.message, error.hint) from error
    burst = value.get("burst", rate[0])
    if isinstance(burst, bool) or not isinstance(burst, (int, float)) or burst < 1:
        raise fail("RP203", (*at, "burst"), "a burst is a number, 1 at least")
    count = value.get("count", "messages")
    if count not in ("messages", "recipients"):
        raise fail(
            "RP202",
            (*at, "count"),
            f"{quoted(count)} can't be counted",
            guess(str(count), ("messages", "recipients")),
        )
    key_text = compile_text(plain(value["key"], (*at, "key"), "the key"), (*at, "key"), scope, rule)
    return (Rate(key_text, rate[0], rate[1], float(burst), count == "recipients"),)


def log(value: Any, at: Path, scope: Scope, rule: str) -> tuple[Act, ...]:
    """Compile `true`, or a text for the log."""
    text = "" if value is True else plain(value, at, "the text")
    return (Note(compile_text(text, at, scope, rule)),)


def route(value: Any, at: Path, scope: Scope, rule: str) -> tuple[Act, ...]:  # noqa: ARG001  (one shape for all)
    """Compile the name of a route or an upstream."""
    name = plain(value, at, "the route")
    if name not in scope.routes:
        raise fail(
            "RP301",
            at,
            f"there is no route or upstream {quoted(name)}",
            guess(name, scope.routes, "known are"),
        )
    return (Onward(name),)


def tls(value: Any, at: Path, scope: Scope, rule: str) -> tuple[Act, ...]:  # noqa: ARG001  (one shape for all)
    """Compile `true`."""
    if value is not True:
        raise fail("RP110", at, "require_tls takes true", "leave it out where TLS is not required")
    return (Onward(),)
