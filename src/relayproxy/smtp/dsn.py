"""Delivery status notifications as octets (RFC 3461 section 6, RFC 3464, RFC 6533, RFC 3834).

Takes values and returns a whole message. Must not know why something failed, whom to send it to, or the time.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from relayproxy.model.address import Address
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply, printable
from relayproxy.smtp.received import rfc5322_date
from relayproxy.smtp.tls_required import tls_optional
from relayproxy.smtp.xclient import xtext_decode

_WHOLE = 50_000  # octets of a message that are returned when its sender did not say how much to return
_MOST = 1_048_576  # octets that are returned at most, whatever the sender asked for
_WIDTH = 76
_STATUS = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}\Z")


class Kind(StrEnum):
    """What is reported (RFC 3464 section 2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    RELAYED = "relayed"


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a recipient: the last reply, `status` where it says more than the reply, the next hop's name."""

    recipient: Recipient
    reply: str
    status: str
    remote: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All that one notification says. Times in seconds since the epoch; `id` is that of the reported message."""

    kind: Kind
    hostname: str
    id: str
    envelope: Envelope
    message: Message
    fates: tuple[Fate, ...]
    received_at: float
    now: float
    until: float = 0.0


_SUBJECTS = {
    Kind.FAILED: "Undelivered mail returned to sender",
    Kind.DELAYED: "Delayed mail (still being tried)",
    Kind.RELAYED: "Mail relayed, no further notification to expect",
}
_TEXTS = {
    Kind.FAILED: (
        "Your message could not be delivered to the recipients below. It will not be tried again.\r\n"
        "What the other system answered is given behind each address.\r\n"
    ),
    Kind.DELAYED: (
        "Your message has not yet been delivered to the recipients below.\r\n"
        "You need not send it again: it is still being tried.\r\n"
    ),
    Kind.RELAYED: (
        "Your message was passed on to a system that sends no confirmations of delivery,\r\n"
        "for the recipients below.\r\n"
    ),
}


def wants(recipient: Recipient, kind: Kind) -> bool:
    """Whether a recipient's NOTIFY asks for this report (RFC 3461 section 4.1); the default is failures and delays."""
    word = {Kind.FAILED: "FAILURE", Kind.DELAYED: "DELAY", Kind.RELAYED: "SUCCESS"}[kind]
    return word in (recipient.notify or ("FAILURE", "DELAY"))


def status_of(reply: Reply) -> str:
    """Return the enhanced status code of a reply; of one that has none what its code allows to say (RFC 3463)."""
    return reply.status if _STATUS.match(reply.status) else f"{reply.code // 100}.0.0"


def dsn_message(report: Report, new_id: str) -> bytes:
    """Return the notification as octets with CRLF line ends; `new_id` is its own id, which makes its Message-ID."""
    utf8 = report.envelope.smtputf8
    returned, what = _returned(report)
    boundary = _boundary(new_id, returned)
    eightbit = any(octet > 127 for octet in returned)
    suffix = "global" if utf8 else "rfc822"
    kind = (
        (f"message/{suffix}" if what == "full" else "message/global-headers")
        if utf8
        else ("message/rfc822" if what == "full" else "text/rfc822-headers")
    )
    status = "message/global-delivery-status" if utf8 else "message/delivery-status"
    explained = _explanation(report).encode()
    machine = _fields(report).encode()
    parts = (
        _part(boundary, "text/plain; charset=utf-8", "Notification", explained, _is_eightbit(explained)),
        _part(boundary, status, "Delivery report", machine, _is_eightbit(machine)),
        _part(boundary, kind, "Undelivered message" if what == "full" else "Header", returned, eightbit),
    )
    head = (
        f"From: Mail delivery system <MAILER-DAEMON@{report.hostname}>\r\n"
        f"To: <{report.envelope.sender}>\r\n"
        f"Subject: {_SUBJECTS[report.kind]}\r\n"
        f"Date: {rfc5322_date(int(report.now))}\r\n"
        f"Message-ID: <{new_id}@{report.hostname}>\r\n"
        "Auto-Submitted: auto-replied\r\n"
        f"{_tls_required(report)}"
        "MIME-Version: 1.0\r\n"
        f'Content-Type: multipart/report; report-type="{status.partition("/")[2]}";\r\n'
        f'\tboundary="{boundary}"\r\n'
    )
    if any(_is_eightbit(part) for part in parts):
        head += "Content-Transfer-Encoding: 8bit\r\n"
    lead = b"This is a report in MIME format.\r\n\r\n"
    return b"".join((head.encode(), b"\r\n", lead, *parts, f"--{boundary}--\r\n".encode()))


def _tls_required(report: Report) -> str:
    """Return the field TLS-Required of the message, which a notification has too (RFC 8689 section 5)."""
    optional = tls_optional(report.message) and not report.envelope.requiretls
    return "TLS-Required: No\r\n" if optional else ""


def _is_eightbit(data: bytes) -> bool:
    return not data.isascii()


def _part(boundary: str, kind: str, description: str, content: bytes, eightbit: bool) -> bytes:
    encoding = "Content-Transfer-Encoding: 8bit\r\n" if eightbit else ""
    head = f"--{boundary}\r\nContent-Type: {kind}\r\nContent-Description: {description}\r\n{encoding}\r\n".encode()
    return head + content + (b"" if content.endswith(b"\r\n") else b"\r\n") + b"\r\n"


def _boundary(new_id: str, returned: bytes) -> str:
    number = 0
    while (boundary := f"=_{new_id}.{number}").encode() in returned:
        number += 1
    return boundary


def _returned(report: Report) -> tuple[bytes, str]:
    """Return the octets of the message that go back, and whether they are all ("full") or only its header."""
    message, ret = report.message, "HDRS" if report.envelope.requiretls else report.envelope.ret
    room = _MOST if ret == "FULL" else _WHOLE
    if report.kind is Kind.FAILED and ret != "HDRS" and message.size <= room:
        return bytes(message), "full"
    head = message.head
    return (head.removesuffix(b"\r\n") if head.endswith(b"\r\n\r\n") else head), "headers"


def _explanation(report: Report) -> str:
    lines = [f"This is the mail system at {report.hostname}.\r\n\r\n", _TEXTS[report.kind]]
    if report.kind is Kind.DELAYED and report.until:
        lines.append(f"That ends on {rfc5322_date(int(report.until))}.\r\n")
    for fate in report.fates:
        lines.append(f"\r\n<{fate.recipient.address}>:\r\n")
        lines += [f"    {line}\r\n" for line in _wrapped(fate.reply or fate.status)]
    return "".join(lines)


def _wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= _WIDTH:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def _fields(report: Report) -> str:
    lines = [f"Reporting-MTA: dns; {report.hostname}\r\n"]
    if report.envelope.envid:
        lines.append(f"Original-Envelope-Id: {_decoded(report.envelope.envid)}\r\n")
    lines.append(f"Arrival-Date: {rfc5322_date(int(report.received_at))}\r\n")
    utf8 = report.envelope.smtputf8
    for fate in report.fates:
        lines.append("\r\n")
        if fate.recipient.orcpt:
            kind, _, address = fate.recipient.orcpt.partition(";")
            lines.append(f"Original-Recipient: {printable(kind)}; {_decoded(address)}\r\n")
        lines.append(f"Final-Recipient: {_address_type(fate.recipient.address, utf8)}\r\n")
        lines.append(f"Action: {report.kind}\r\nStatus: {fate.status}\r\n")
        if "." in fate.remote:
            # The upstream's name in the configuration; only a domain is one of the type "dns" (RFC 3464 section 2.3.5).
            lines.append(f"Remote-MTA: dns; {fate.remote}\r\n")
        if fate.reply:
            lines.append("Diagnostic-Code: smtp; " + "\r\n\t".join(_wrapped(fate.reply)) + "\r\n")
        lines.append(f"Last-Attempt-Date: {rfc5322_date(int(report.now))}\r\n")
        if report.kind is Kind.DELAYED and report.until:
            lines.append(f"Will-Retry-Until: {rfc5322_date(int(report.until))}\r\n")
    return "".join(lines)


def _address_type(address: Address, utf8: bool) -> str:
    return f"{'utf-8' if utf8 and address.needs_utf8 else 'rfc822'}; {address}"


def _decoded(text: str) -> str:
    """Return what xtext stands for, or itself where it stands for nothing that may be in a header."""
    try:
        return xtext_decode(text)
    except ValueError:
        return printable(text)
