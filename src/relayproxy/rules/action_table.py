"""The actions: what a rule does when it matches, as a table of names, arguments and compilers.

Must not know what a compiler makes of an argument.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from relayproxy.api import Action
from relayproxy.rules import actions
from relayproxy.rules.acts import Act
from relayproxy.rules.condition import Scope
from relayproxy.rules.facts import Phase
from relayproxy.rules.problems import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One action: the JSON Schema of its argument, its compiler, and when it can be done at the earliest.

    `needs` names what the configuration must have for it (hold: a spool); "" nothing beyond the rules themselves.
    """

    name: str
    doc: str
    schema: dict[str, Any]
    compile: Callable[[Any, Path, Scope, str], tuple[Act, ...]]
    phase: Phase = Phase.MESSAGE
    needs: str = ""


_TEXT: dict[str, Any] = {"type": "string"}
_TEXTS: dict[str, Any] = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}
_TRUE_OR_TEXT: dict[str, Any] = {"anyOf": [{"const": True}, _TEXT]}
_VALUES: dict[str, Any] = {"type": "object", "additionalProperties": _TEXT, "minProperties": 1}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _reply_schema(first: int) -> dict[str, Any]:
    code = {"type": "integer", "minimum": first * 100, "maximum": first * 100 + 59}
    status = {"type": "string", "pattern": rf"^{first}\.[0-9]{{1,3}}\.[0-9]{{1,3}}$"}
    return {"anyOf": [{"const": True}, _TEXT, _object(code=code, status=status, text=_TEXT)]}


ACTIONS = {
    row.name: row
    for row in (
        Row(
            "reject",
            "refuse with 550 5.7.1, or another code, status and text",
            _reply_schema(5),
            actions.reply(Action.REJECT),
            Phase.RCPT,
        ),
        Row(
            "defer",
            "answer 451 4.7.1: the client keeps it and tries again",
            _reply_schema(4),
            actions.reply(Action.DEFER),
            Phase.RCPT,
        ),
        Row(
            "discard",
            "tell the client 250 and drop the message; the text is the reason in the log",
            _TRUE_OR_TEXT,
            actions.reason(Action.DISCARD),
        ),
        Row(
            "hold",
            "keep the message for a human; the text is the reason",
            _TRUE_OR_TEXT,
            actions.reason(Action.HOLD),
            needs="hold",
        ),
        Row(
            "accept",
            "ask no later rule; with `skip`, no check named there that stands after `rules` in the pipeline either. "
            "Signing, headers and logging happen all the same",
            {"anyOf": [{"const": True}, _object(skip=_TEXTS)]},
            actions.accept,
            Phase.RCPT,
        ),
        Row(
            "score",
            "add to the score, under a symbol if one is given",
            {"anyOf": [{"type": "number"}, _object(("add",), add={"type": "number"}, symbol=_TEXT)]},
            actions.score,
        ),
        Row(
            "tag", "tag the message, for the fact `tags` of later rules and for the log", _TEXTS, actions.tag
        ),
        Row("add_header", "add fields at the top", _VALUES, actions.fields("add")),
        Row(
            "replace_header",
            "give the topmost field of each name another value; add it where there is none",
            _VALUES,
            actions.fields("replace"),
        ),
        Row("remove_header", "remove all fields of these names", _TEXTS, actions.remove),
        Row("prefix_subject", "put a text before the subject, unless it is there", _TEXT, actions.prefix),
        Row(
            "rewrite_recipient",
            "change the local part or the domain of the recipient",
            _object(local=_TEXT, domain=_TEXT),
            actions.rewrite,
            Phase.RCPT,
        ),
        Row("redirect", "send to another address instead", _TEXT, actions.redirect, Phase.RCPT),
        Row("add_recipient", "send a copy to an address as well (bcc)", _TEXTS, actions.copy, Phase.RCPT),
        Row(
            "route",
            "send by the route, or to the upstream, of that name, whatever the routing table says",
            _TEXT,
            actions.route,
            Phase.RCPT,
        ),
        Row(
            "rate_limit",
            "do the rule's other actions only above a rate, counted for each value of `key`; without a verdict among "
            "them, defer with 450 4.7.1. `burst` is how many may come at once, `count` is messages or recipients",
            _object(
                ("key", "rate"),
                key=_TEXT,
                rate=_TEXT,
                burst={"type": "number", "minimum": 1},
                count={"enum": ["messages", "recipients"]},
            ),
            actions.rate,
            Phase.RCPT,
        ),
        Row(
            "require_tls",
            "send onward over TLS only; while the next hop has none, the client hears 451 4.7.10",
            {"const": True},
            actions.tls,
            Phase.RCPT,
        ),
        Row(
            "log",
            "write a line to the log, with a text if there is one",
            _TRUE_OR_TEXT,
            actions.log,
            Phase.RCPT,
        ),
    )
}
"""All actions by name."""

VERDICTS = ("reject", "defer", "discard", "hold", "accept")

MEANT = {
    "quarantine": "hold",
    "drop": "discard",
    "bounce": "reject",
    "tempfail": "defer",
    "greylist": "defer",
    "pass": "accept",
    "allow": "accept",
    "whitelist": "accept",
    "deny": "reject",
    "block": "reject",
    "bcc": "add_recipient",
    "copy": "add_recipient",
    "header": "add_header",
    "set_header": "replace_header",
    "delete_header": "remove_header",
    "subject": "prefix_subject",
    "forward": "redirect",
    "rewrite": "rewrite_recipient",
    "encrypt": "require_tls",
}
"""Words of other programs, and the action that does what they mean."""
