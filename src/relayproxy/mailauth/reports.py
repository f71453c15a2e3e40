"""What reports to the owners of domains have in common: who reports, what one is called, and the mail that carries it.

Must not know what a report says, to whom it may go, the clock, or how it is sent.
"""

import base64
import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import Protocol

from relayproxy.model.edits import header_line
from relayproxy.model.message import Message

_LINE = 76


@dataclass(frozen=True, slots=True)
class Reporter:
    """Who reports: a name, an e-mail address, further contact details, and the domain that submits."""

    organization: str
    contact: str
    submitter: str
    extra_contact: str = ""
    generator: str = ""


class Report(Protocol):
    """One report of a policy domain (A-labels). The period is `begin` <= time <= `end`, in seconds since the epoch."""

    @property
    def reporter(self) -> Reporter:
        """Who reports."""

    @property
    def domain(self) -> str:
        """Whose report it is."""

    @property
    def begin(self) -> int:
        """The first second."""

    @property
    def end(self) -> int:
        """The last second."""

    @property
    def id(self) -> str:
        """What it is known by."""

    @property
    def file_name(self) -> str:
        """The name of the compressed file."""


def identity(report: Report, kind: str = "") -> str:
    """Return the id of a report: the same for the same domain and period, so that a repetition can be told."""
    what = f"{kind}{report.reporter.submitter}!{report.domain}!{report.begin}!{report.end}"
    return hashlib.sha256(what.encode("utf-8", "replace")).hexdigest()[:32]


def file_name(report: Report, form: str) -> str:
    """Return the name of the compressed file (RFC 9990 section 3.5.2, RFC 8460 section 5.1)."""
    return f"{report.reporter.submitter}!{report.domain}!{report.begin}!{report.end}!{report.id}.{form}.gz"


def subject(report: Report) -> str:
    """Return the subject of its mail (RFC 9990 section 3.5.2, RFC 8460 section 5.3)."""
    return f"Report Domain: {report.domain} Submitter: {report.reporter.submitter} Report-ID: <{report.id}>"


def compress(octets: bytes) -> bytes:
    """Return gzip, without a time or a name in it."""
    return gzip.compress(octets, 9, mtime=0)


def encoded(octets: bytes) -> bytes:
    """Return octets in base64, in lines with CRLF (RFC 2045 section 6.8)."""
    text = base64.b64encode(octets)
    return b"".join(text[start : start + _LINE] + b"\r\n" for start in range(0, len(text), _LINE))


def wrapped(
    report: Report,
    text: str,
    attachment: bytes,
    *,
    author: str,
    to: str,
    when: float,
    media_type: str,
    content_type: str = "multipart/mixed",
    fields: Sequence[tuple[str, str]] = (),
) -> Message:
    """Return the mail of a report to one mailbox: `text` (with CRLF), and the `attachment` as `encoded` has it.

    `fields` are further ones of the header. Raises ValueError for an address with control characters.
    """
    boundary = f"=_{report.id}"
    every = (
        ("From", author),
        ("To", to),
        ("Date", formatdate(when)),
        ("Subject", subject(report)),
        ("Message-ID", f"<{report.id}@{report.reporter.submitter}>"),
        *fields,
        ("Auto-Submitted", "auto-generated"),
        ("MIME-Version", "1.0"),
        ("Content-Type", f'{content_type}; boundary="{boundary}"'),
    )
    head = b"".join(header_line(name, value) for name, value in every) + b"\r\n"
    lead = (
        f"--{boundary}\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\n\r\n"
        f"{text}\r\n"
        f"--{boundary}\r\n"
        f'Content-Type: {media_type}; name="{report.file_name}"\r\n'
        f'Content-Disposition: attachment; filename="{report.file_name}"\r\n'
        "Content-Transfer-Encoding: base64\r\n\r\n"
    )
    body = lead.encode("ascii", "replace") + attachment + f"\r\n--{boundary}--\r\n".encode()
    return Message(head, body)
