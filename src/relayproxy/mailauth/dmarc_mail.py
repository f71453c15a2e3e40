"""The mail that carries an aggregate report (RFC 9990 section 3.5.2): octets, ready to be signed and sent.

Must not know to whom it may go, the clock, or how it is sent.
"""

from email.utils import formatdate

from relayproxy.mailauth.dmarc_report import Report, to_xml
from relayproxy.mailauth.reports import compress, encoded, wrapped
from relayproxy.model.message import Message


def encoded_attachment(report: Report) -> bytes:
    """Return the compressed report in base64, in lines; its length is what size limits are about."""
    return encoded(compress(to_xml(report)))


def report_mail(report: Report, attachment: bytes, *, author: str, to: str, when: float) -> Message:
    """Return the mail of a report to one mailbox; `attachment` is `encoded_attachment(report)`.

    Raises ValueError for an address with control characters.
    """
    text = (
        f"This is a DMARC aggregate report (RFC 9990) about mail of {report.domain}\r\n"
        f"as received by {report.reporter.submitter}, from\r\n"
        f"{formatdate(report.begin)} to {formatdate(report.end)}.\r\n\r\n"
        f"Messages: {report.messages}\r\n"
        f"Contact: {report.reporter.contact}\r\n"
    )
    return wrapped(report, text, attachment, author=author, to=to, when=when, media_type="application/gzip")
