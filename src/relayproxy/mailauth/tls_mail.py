"""The mail that carries a report on TLS (RFC 8460 section 5.3): octets, ready to be signed and sent.

Must not know to whom it may go, the clock, or how it is sent.
"""

from email.utils import formatdate

from relayproxy.mailauth.reports import compress, encoded, wrapped
from relayproxy.mailauth.tls_report import MEDIA_TYPE, Report, to_json
from relayproxy.model.message import Message


def report_mail(report: Report, *, author: str, to: str, when: float) -> Message:
    """Return the mail of a report to one mailbox. Raises ValueError for an address with control characters.

    It asks for delivery whatever becomes of TLS (section 3, and RFC 8689 section 5): broken TLS is what it tells of.
    """
    text = (
        f"This is a report on TLS (RFC 8460) about connections to mail servers of {report.domain}\r\n"
        f"from {report.reporter.submitter}, from\r\n"
        f"{formatdate(report.begin)} to {formatdate(report.end)}.\r\n\r\n"
        f"Connections with TLS as it should be: {report.successes}\r\n"
        f"Connections without: {report.failures}\r\n"
        f"Contact: {report.reporter.contact}\r\n"
    )
    return wrapped(
        report,
        text,
        encoded(compress(to_json(report))),
        author=author,
        to=to,
        when=when,
        media_type=MEDIA_TYPE,
        content_type='multipart/report; report-type="tlsrpt"',
        fields=(
            ("TLS-Report-Domain", report.domain),
            ("TLS-Report-Submitter", report.reporter.submitter),
            ("TLS-Required", "No"),
        ),
    )
