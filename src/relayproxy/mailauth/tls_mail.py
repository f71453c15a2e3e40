"""The mail that carries a report on TLS (RFC 8460 section 5.3): octets, ready to be signed and sent.

Must not know to whom it may go, the clock, or how it is sent.
"""

from email.utils import formatdate

from relayproxy.mailauth.dmarc_report import compress
from relayproxy.mailauth.report_parts import encoded
from relayproxy.mailauth.tls_report import MEDIA_TYPE, Report, to_json
from relayproxy.model.edits import header_line
from relayproxy.model.message import Message


def report_mail(report: Report, *, author: str, to: str, when: float) -> Message:
    """Return the mail of a report to one mailbox. Raises ValueError for an address with control characters.

    It asks for delivery whatever becomes of TLS (section 3, and RFC 8689 section 5): broken TLS is what it tells of.
    """
    boundary = f"=_{report.id}"
    fields = (
        ("From", author),
        ("To", to),
        ("Date", formatdate(when)),
        ("Subject", report.subject),
        ("Message-ID", f"<{report.id}@{report.reporter.submitter}>"),
        ("TLS-Report-Domain", report.domain),
        ("TLS-Report-Submitter", report.reporter.submitter),
        ("TLS-Required", "No"),
        ("Auto-Submitted", "auto-generated"),
        ("MIME-Version", "1.0"),
        ("Content-Type", f'multipart/report; report-type="tlsrpt"; boundary="{boundary}"'),
    )
    head = b"".join(header_line(name, value) for name, value in fields) + b"\r\n"
    return Message(head, _body(report, boundary))


def _body(report: Report, boundary: str) -> bytes:
    text = (
        f"This is a report on TLS (RFC 8460) about connections to mail servers of {report.domain}\r\n"
        f"from {report.reporter.submitter}, from\r\n"
        f"{formatdate(report.begin)} to {formatdate(report.end)}.\r\n\r\n"
        f"Connections with TLS as it should be: {report.successes}\r\n"
        f"Connections without: {report.failures}\r\n"
        f"Contact: {report.reporter.contact}\r\n"
    )
    lead = (
        f"--{boundary}\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\n\r\n"
        f"{text}\r\n"
        f"--{boundary}\r\n"
        f'Content-Type: {MEDIA_TYPE}; name="{report.file_name}"\r\n'
        f'Content-Disposition: attachment; filename="{report.file_name}"\r\n'
        "Content-Transfer-Encoding: base64\r\n\r\n"
    )
    attachment = encoded(compress(to_json(report)))
    return lead.encode("ascii", "replace") + attachment + f"\r\n--{boundary}--\r\n".encode()
