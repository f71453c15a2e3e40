"""Whether a message is a bounce, a complaint or an automatic answer, and what it says.

Never raises for what a stranger wrote: a report that can't be made out is one of an unknown recipient. Must not know
which mail of ours it is about, nor what follows from it.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from relayproxy.bounces.dsn import read_feedback, read_status, status_in, tidy, untyped
from relayproxy.bounces.mime import Part, parts_of, value_of
from relayproxy.bounces.report import Fate, Kind, Report
from relayproxy.bounces.words import BOUNCE_SENDER, BOUNCE_SUBJECT, cut, fates_in
from relayproxy.model.message import HeaderField, Message

_LONGEST_RETURNED = 65_536
_STATUS_KINDS = frozenset({"message/delivery-status", "message/global-delivery-status"})
_RETURNED_KINDS = frozenset(
    {
        "message/rfc822",
        "message/global",
        "text/rfc822-headers",
        "message/rfc822-headers",
        "message/global-headers",
    }
)
_LOOSE_STATUS = re.compile(
    rb"\s*(?:Reporting-MTA|Original-Envelope-Id|(?:Final|Original)-Recipient)\s*:", re.IGNORECASE
)
_LOOSE_FEEDBACK = re.compile(rb"\s*(?:Feedback-Type|User-Agent|Version)\s*:", re.IGNORECASE)
_LONGEST_WORDS = 100_000
_HIDDEN = re.compile(r"<(/?)(?:style|script)\b", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]{0,2000}>")
_BREAK = re.compile(r"<(?:br|/p|/div|/tr|/h\d)\b[^<>]{0,200}>", re.IGNORECASE)
_AUTO = re.compile(r"auto[-_ ]?(?:repl\w*|respon\w*)|vacation", re.IGNORECASE)
_AWAY = re.compile(
    r"^\W*(?:automatic reply|auto(?:mated)?[- ]?(?:reply|response)|out of (?:the )?office|away from|on (?:vacation|leave)|"
    r"abwesenheits\w*|automatische antwort|r(?:\u00e9|e)ponse automatique|respuesta autom(?:\u00e1|a)tica|"
    r"risposta automatica|afwezig\w*)",
    re.IGNORECASE,
)


def read(message: Message, *, null_sender: bool = True) -> Report | None:
    """Return what a message reports, or None for one that is no report.

    `null_sender` says whether it came from <>, as bounces do; without that only its form or its From tells.
    """
    parts = tuple(parts_of(message))
    report = _status(parts) or _complaint(parts, message)
    if report is not None:
        return report
    if _is_automatic(message, parts):
        return Report(Kind.AUTO_REPLY, reporter=untyped(value_of(message.fields, "From")))
    return _text(parts, message) if _looks_like_a_bounce(message, null_sender=null_sender) else None


def _status(parts: Sequence[Part]) -> Report | None:
    """Read a DSN: its status part, wherever in the message and of whatever type it is."""
    about: tuple[HeaderField, ...] = ()
    fates: list[Fate] = []
    for part in parts:
        if part.kind in _STATUS_KINDS or (part.kind != "text/html" and _LOOSE_STATUS.match(part.body)):
            fields, found = read_status(part.body)
            about = about or fields
            fates += found
    if not fates:
        return None
    words = _words(parts)
    return Report(
        Kind.DSN,
        tuple(_explained(fate, words) for fate in fates),
        reporter=untyped(value_of(about, "Reporting-MTA")),
        envelope_id=tidy(value_of(about, "Original-Envelope-Id")),
        returned=_returned(parts),
    )


def _explained(fate: Fate, words: str) -> Fate:
    """Give a fate without a diagnosis what the part for people says."""
    if fate.diagnosis or not words:
        return fate
    own = next((one for one in fates_in(words) if one.address.lower() == fate.address.lower()), None)
    text = own.diagnosis if own else tidy(words)
    status = fate.status if fate.status[1:] not in ("", ".0.0") else status_in(text) or fate.status
    return replace(fate, diagnosis=text, status=status)


def _complaint(parts: Sequence[Part], message: Message) -> Report | None:
    """Read a complaint (RFC 5965), also one whose report is a plain text part."""
    declared = value_of(message.fields, "Content-Type").lower()
    for part in parts:
        loose = (
            "feedback-report" in declared and part.kind != "text/html" and _LOOSE_FEEDBACK.match(part.body)
        )
        if part.kind != "message/feedback-report" and not loose:
            continue
        feedback, address, reporter = read_feedback(part.body)
        if feedback:
            fate = Fate(address, "failed", "", tidy(_words(parts)))
            return Report(Kind.COMPLAINT, (fate,), reporter, feedback=feedback, returned=_returned(parts))
    return None


def _is_automatic(message: Message, parts: Sequence[Part]) -> bool:
    """Whether somebody is away, or a disposition is told of (RFC 3834, RFC 8098)."""
    fields = message.fields
    if any(part.kind == "message/disposition-notification" for part in parts):
        return True
    submitted = value_of(fields, "Auto-Submitted").lower()
    if submitted.startswith("auto-replied") and not BOUNCE_SUBJECT.search(message.subject[:500]):
        return True
    if any(
        value_of(fields, name) for name in ("X-Autoreply", "X-Autorespond", "X-Autoresponder", "X-Vacation")
    ):
        return True
    if _AUTO.search(value_of(fields, "Precedence")):
        return True
    return bool(_AWAY.match(message.subject[:500]))


def _looks_like_a_bounce(message: Message, *, null_sender: bool) -> bool:
    fields = message.fields
    if value_of(fields, "X-Failed-Recipients"):
        return True
    sender = bool(BOUNCE_SENDER.search(value_of(fields, "From")))
    subject = bool(BOUNCE_SUBJECT.search(message.subject[:500]))
    return (sender and subject) or (null_sender and (sender or subject))


def _text(parts: Sequence[Part], message: Message) -> Report:
    said, returned = cut(_words(parts))
    named = tuple(
        one
        for part in value_of(message.fields, "X-Failed-Recipients").split(",")[:50]
        if (one := untyped(part))
    )
    fates = fates_in(said, named) or (Fate("", "failed", "", tidy(said)),)
    return Report(
        Kind.TEXT,
        fates,
        reporter=untyped(value_of(message.fields, "From")),
        returned=_returned(parts) or returned.encode("utf-8", "replace")[:_LONGEST_RETURNED],
    )


def _words(parts: Sequence[Part]) -> str:
    """Return what is written for people: the first plain text, else the first HTML without its tags."""
    for part in parts:
        if part.kind == "text/plain" and part.body.strip() and not _LOOSE_STATUS.match(part.body):
            return part.text[:_LONGEST_WORDS]
    for part in parts:
        if part.kind == "text/html":
            shown = _TAG.sub(" ", _BREAK.sub("\n", _visible(part.text[:_LONGEST_WORDS])))
            return shown.replace("&lt;", "<").replace("&gt;", ">")
    return ""


def _visible(html: str) -> str:
    """Leave out what stands between the tags of styles and scripts."""
    kept, at, hidden = [], 0, False
    for tag in _HIDDEN.finditer(html):
        if not hidden:
            kept.append(html[at : tag.start()])
        at, hidden = tag.start(), not tag[1]
    return "".join((*kept, "" if hidden else html[at:]))


def _returned(parts: Sequence[Part]) -> bytes:
    """Return the beginning of the message that came back: its header fields."""
    return next((part.body[:_LONGEST_RETURNED] for part in parts if part.kind in _RETURNED_KINDS), b"")
