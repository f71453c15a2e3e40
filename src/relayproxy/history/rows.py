"""An event as rows of the history's tables.

The one place that knows both an event's fields and the tables' columns. Must not know files or threads.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any, Final

import orjson

from relayproxy.model.address import Address, to_a_label
from relayproxy.model.client import Client
from relayproxy.model.event import Event, MessageEvent, NoteEvent, RefusalEvent, TlsEvent
from relayproxy.model.finding import Finding
from relayproxy.model.outcome import state_of
from relayproxy.model.reply import Reply, printable

_LONGEST = 1000  # characters of a text that others wrote
_MOST_FINDINGS = 500
_LONGEST_JSON = 20_000  # characters; DNS records that were found are well below
_UNKNOWN = "\ufffd"  # U+FFFD, for a character that can't be kept
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")

CLASSES = {
    "1": "address",
    "2": "mailbox",
    "3": "system",
    "4": "network",
    "5": "protocol",
    "6": "content",
    "7": "policy",
}
"""The subjects of enhanced status codes (RFC 3463 section 3), by which failures are sorted."""


def class_of(status: str) -> str:
    """Return the class of an enhanced status code: a word of CLASSES, "other", or "" without a code."""
    if not status:
        return ""
    return CLASSES.get(status.split(".")[1], "other")


_DEFAULTS: dict[str, Any] = {
    "at": 0.0,
    "kind": "",
    "mail": "",
    "outcome": "",
    "listener": "",
    "route": "",
    "direction": "",
    "ip": "",
    "helo": "",
    "login": "",
    "tls": "",
    "sender": "",
    "sender_domain": "",
    "campaign": "",
    "message_id": "",
    "size": 0,
    "code": 0,
    "status": "",
    "class": "",
    "reply": "",
    "reason": "",
    "score": 0.0,
    "seconds": 0.0,
    "hook_seconds": 0.0,
    "details": "{}",
}

COLUMNS: Final = tuple(_DEFAULTS)
"""The columns of the table `event`, in their order; before them stands `id`."""


def rows_of(event: Event) -> tuple[tuple[Any, ...], list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Return the row of `event` by COLUMNS, and those of `recipient` and `finding` without the event's number."""
    row, recipients, findings = _rows(event)
    return tuple((_DEFAULTS | row).values()), recipients, findings


def _rows(event: Event) -> tuple[dict[str, Any], list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Return the row of `event`, those of `recipient` and those of `finding`."""
    match event:
        case MessageEvent():
            return _message(event)
        case RefusalEvent():
            row = {"at": event.at, "kind": "refused", "mail": event.id, "outcome": event.stage}
            row |= _client(event.client) | _reply(event.reply) | _sender(event.sender)
            addresses = [event.recipient.address] if event.recipient else []
            return row, _recipients(addresses, [event.reply]), []
        case TlsEvent():
            details: dict[str, Any] = {
                "domain": to_a_label(event.domain),
                "host": event.host,
                "port": event.port,
                "policy": event.policy,
            }
            for name in ("policy_strings", "mx_patterns"):
                if texts := getattr(event, name):
                    details[name] = [_text(text) for text in texts]
            row = {
                "at": event.at,
                "kind": "tls",
                "mail": "",
                "outcome": event.result,
                "route": event.route,
                "tls": event.version,
                "reason": printable(event.reason, _LONGEST),
                "details": _json(details),
            }
            return row, [], []
        case NoteEvent():
            row = {"at": event.at, "kind": event.kind, "mail": event.id, "route": event.route}
            row["details"] = _json(event.details)
            if event.reply is None:
                return row, [], []
            row |= _reply(event.reply) | {"outcome": str(state_of(event.reply))}
            addresses = [event.recipient] if event.recipient else []
            return row, _recipients(addresses, [event.reply]), []


def _message(event: MessageEvent) -> tuple[dict[str, Any], list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    addresses = [recipient.address for recipient in event.recipients]
    row = {
        "at": event.at,
        "kind": "message",
        "mail": event.id,
        "outcome": event.outcome,
        "route": event.route,
        "direction": str(event.direction),
        "campaign": _campaign(event.findings),
        "message_id": _text(event.message_id),
        "size": event.size,
        "reason": _text(event.reason),
        "score": sum(finding.score for finding in event.findings),
        "seconds": event.seconds,
        "hook_seconds": event.hook_seconds,
    }
    row |= _client(event.client) | _reply(event.replies[0]) | _sender(event.sender)
    findings = [
        (
            _text(finding.method),
            finding.result,
            finding.by,
            float(finding.score),
            _text(finding.reason),
            _json(finding.props),
        )
        for finding in event.findings[:_MOST_FINDINGS]
    ]
    return row, _recipients(addresses, event.replies), findings


def _client(client: Client) -> dict[str, Any]:
    return {
        "listener": client.listener,
        "ip": client.ip,
        "helo": _text(client.helo),
        "login": _text(client.identity),
        "tls": client.tls.version if client.tls else "",
    }


def _reply(reply: Reply) -> dict[str, Any]:
    return {
        "code": reply.code,
        "status": reply.status,
        "class": class_of(reply.status),
        "reply": str(reply)[:_LONGEST],
    }


def _sender(sender: Address | None) -> dict[str, Any]:
    if sender is None:
        return {}
    return {"sender": _text(str(sender)), "sender_domain": _text(sender.ascii_domain)}


def _recipients(addresses: Sequence[Address], replies: Sequence[Reply]) -> list[tuple[Any, ...]]:
    each = replies if len(replies) == len(addresses) else repeat(replies[0])
    return [
        (
            _text(str(address)),
            _text(address.ascii_domain),
            str(state_of(reply)),
            reply.code,
            reply.status,
            class_of(reply.status),
            str(reply)[:_LONGEST],
        )
        for address, reply in zip(addresses, each, strict=False)
    ]


def _campaign(findings: Sequence[Finding]) -> str:
    """The name in the last finding of the method "campaign", by which a plugin says what a message belongs to."""
    for finding in reversed(findings):
        if finding.method == "campaign":
            return _text(finding.props.get("name", ""))
    return ""


def _text(text: str) -> str:
    """Text as databases can hold it: no lone surrogates, no NUL, and not without end."""
    short = text[:_LONGEST]
    if "\0" in short:
        short = short.replace("\0", _UNKNOWN)
    return short if short.isascii() else short.encode("utf-8", "replace").decode()


def _json(value: Mapping[str, object]) -> str:
    try:
        text = orjson.dumps(dict(value), default=str).decode()
    except TypeError:
        # A lone surrogate, or a number of more than 64 bits.
        text = orjson.dumps({_text(str(key)): _text(str(one)) for key, one in value.items()}).decode()
    if len(text) > _LONGEST_JSON:
        text = orjson.dumps({_text(str(key)): _text(str(one)) for key, one in [*value.items()][:20]}).decode()
    return _NUL.sub(rf"\1{_UNKNOWN}", text) if "\\u0000" in text else text
