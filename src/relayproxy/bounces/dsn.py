"""The machine-readable parts of reports: delivery status (RFC 3464, RFC 6533) and feedback (RFC 5965).

Tolerant of what is common and wrong: LF line ends, no blank line between recipients, addresses without a type or in
angle brackets. Must not know where in a message the part stood.
"""

import re
from collections.abc import Iterator

from relayproxy.bounces.mime import split, value_of
from relayproxy.bounces.report import LONGEST_TEXT, Fate
from relayproxy.model.message import HeaderField
from relayproxy.model.reply import printable

ACTIONS = frozenset({"failed", "delayed", "delivered", "relayed", "expanded"})

_MOST_RECIPIENTS = 200
_GROUPS = re.compile(rb"\r?\n[ \t]*\r?\n")
_TYPED = re.compile(r"\s*[A-Za-z0-9-]{1,40}\s*;\s*(.*)\Z", re.DOTALL)
_STATUS = re.compile(r"(?<![\d.])([245]\.\d{1,3}\.\d{1,3})(?![\d]|\.\d)")
_REPLY = re.compile(r"(?:\A|[^\d.])([45]\d\d)(?:[ -]|\Z)")
_UNITEXT = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")
_BLANKS = re.compile(r"\s+")


def tidy(text: str) -> str:
    """Return foreign text on one line, printable, at most 1000 characters."""
    return printable(_BLANKS.sub(" ", text[: 4 * LONGEST_TEXT]).strip(), LONGEST_TEXT)


def status_in(text: str) -> str:
    """Return the enhanced status code that a text names (RFC 3463), or what its reply code amounts to, or ""."""
    found = _STATUS.search(text)
    if found:
        return found[1]
    reply = _REPLY.search(text)
    return f"{reply[1][0]}.0.0" if reply else ""


def untyped(value: str) -> str:
    """Return the address or name behind `rfc822;` or `dns;`, without angle brackets."""
    found = _TYPED.match(value)
    text = (found[1] if found else value).strip()
    text = text.removeprefix("<").removesuffix(">").strip()
    return _UNITEXT.sub(_character, text)[:320]


def _character(found: re.Match[str]) -> str:
    number = int(found[1], 16)
    return chr(number) if 0xA0 <= number < 0xD800 or 0xE000 <= number < 0x110000 else ""


def read_status(body: bytes) -> tuple[tuple[HeaderField, ...], tuple[Fate, ...]]:
    """Return the fields about the message, and the fate of each recipient; none of either in what is no status."""
    groups = [
        split(group)[0] for group in _GROUPS.split(body.strip(b"\r\n \t"), maxsplit=_MOST_RECIPIENTS + 1)
    ]
    groups = [group for group in groups[: _MOST_RECIPIENTS + 1] if group]
    if not groups:
        return (), ()
    about = groups[0] if not _names_recipient(groups[0]) or value_of(groups[0], "Reporting-MTA") else ()
    return about, tuple(fate for group in groups for one in _recipients(group) if (fate := _fate(one)))


def _names_recipient(group: tuple[HeaderField, ...]) -> bool:
    return bool(value_of(group, "Final-Recipient") or value_of(group, "Original-Recipient"))


def _recipients(group: tuple[HeaderField, ...]) -> Iterator[tuple[HeaderField, ...]]:
    """Cut a group where the next recipient begins, for those who leave out the blank line."""
    start, seen = 0, False
    for place, one in enumerate(group):
        if one.name.lower() == "final-recipient":
            if seen:
                # An Original-Recipient in front of it belongs to the new one.
                first = place - 1 if group[place - 1].name.lower() == "original-recipient" else place
                yield group[start:first]
                start = first
            seen = True
    yield group[start:]


def _fate(fields: tuple[HeaderField, ...]) -> Fate | None:
    if not _names_recipient(fields):
        return None
    original = untyped(value_of(fields, "Original-Recipient"))
    final = untyped(value_of(fields, "Final-Recipient"))
    diagnosis = value_of(fields, "Diagnostic-Code")
    found = _TYPED.match(diagnosis)
    text = tidy(found[1] if found else diagnosis)
    status = status_in(value_of(fields, "Status"))
    if status[1:] in ("", ".0.0"):
        # "5.0.0" says no more than failed; the remote server's own words often do.
        status = status_in(text) or status
    action = value_of(fields, "Action").partition("(")[0].strip().lower()
    if action not in ACTIONS:
        action = "delayed" if status.startswith("4") else "delivered" if status.startswith("2") else "failed"
    # The original recipient is the one that we know (RFC 3464 section 2.3.1); few servers give it.
    address = original if "@" in original else final
    return Fate(address, action, status, text, untyped(value_of(fields, "Remote-MTA")))


def read_feedback(body: bytes) -> tuple[str, str, str]:
    """Return the type of a complaint ("abuse"), the recipient that complains or "", and the program that says so."""
    fields = split(body.lstrip(b"\r\n"))[0]
    return (
        tidy(value_of(fields, "Feedback-Type")).lower(),
        untyped(value_of(fields, "Original-Rcpt-To")),
        tidy(value_of(fields, "User-Agent")),
    )
