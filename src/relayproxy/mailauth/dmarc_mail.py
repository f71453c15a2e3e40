"""The mail that carries an aggregate report (RFC 9990 section 3.5.2): octets, ready to be signed and sent.

Must not know to whom it may go, the clock, or how it is sent.
"""

from email.utils import formatdate

from relayproxy.mailauth.dmarc_report import Report, compress, to_xml
from relayproxy.mailauth.report_parts import encoded
from relayproxy.model.edits import header_line
from relayproxy.model.message import Message


def encoded_attachment(report: Report) -> bytes:
    """Return the compressed report in base64, in lines; its length is what size limits are about."""
    return encoded(compress(to_xml(report)))


def report_mail(report: Report, attachment: bytes, *, author: str, to: str, when: float) -> Message:
    """Return the mail of a report to one mailbox; `attachment` is `encoded_attachment(report)`.

    Raises ValueError for an address with control characters.
    """
    boundary = f"=_{report.id}"
    fields = (
        ("From", author),
        ("To", to),
        ("Date", formatdate(when)),
        ("Subject", report.subject),
        ("Message-ID", f"<{report.id}@{report.reporter.submitter}>"),
        ("Auto-Submitted", "auto-generated"),
        ("MIME-Version", "1.0"),
        ("Content-Type", f'multipart/mixed; boundary="{boundary}"'),
    )
    head = b"".join(header_line(name, value) for name, value in fields) + b"\r\n"
    return Message(head, _body(report, attachment, boundary))


def _body(report: Report, attachment: bytes, boundary: str) -> bytes:
    period = f"{formatdate(report.begin)} to {formatdate(report.end)}"
    text = (
        f"This is a DMARC aggregate report (RFC 9990) about mail of {report.published.domain}\r\n"
        f"as received by {report.reporter.submitter}, from\r\n"
        f"{period}.\r\n\r\n"
        f"Messages: {report.messages}\r\n"
        f"Contact: {report.reporter.contact}\r\n"
    )
    lead = (
        f"--{boundary}\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\n\r\n"
        f"{text}\r\n"
        f"--{boundary}\r\n"
        f'Content-Type: application/gzip; name="{report.file_name}"\r\n'
        f'Content-Disposition: attachment; filename="{report.file_name}"\r\n'
        "Content-Transfer-Encoding: base64\r\n\r\n"
    )
    return lead.encode("ascii", "replace") + attachment + f"\r\n--{boundary}--\r\n".encode()
