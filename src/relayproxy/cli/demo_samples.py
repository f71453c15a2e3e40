"""The mail that `relayproxy demo` sends itself, so that its page has something to show."""

import smtplib
from dataclasses import dataclass

_DATE = "Tue, 24 Nov 2026 09:00:00 +0000"


@dataclass(frozen=True, slots=True)
class Sample:
    """One message with its envelope."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes


def _plain(number: int, author: str, to: str, subject: str, body: str, *extra: str) -> bytes:
    lines = [
        f"From: {author}",
        f"To: {to}",
        f"Subject: {subject}",
        f"Date: {_DATE}",
        f"Message-ID: <sample-{number}@demo.example>",
        "MIME-Version: 1.0",
        *extra,
        "",
        *body.split("\n"),
        "",
    ]
    return "\r\n".join(lines).encode()


_TEXT = "Content-Type: text/plain; charset=utf-8"
_PARTS = """\
--cut
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

Grüße aus dem Süden.
.A line that begins with a dot.

--cut
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: 8bit

<p>Grüße aus dem <b>Süden</b>.<script>alert("not run")</script></p>

--cut--"""

SAMPLES = (
    Sample(
        "ana@demo.example",
        ("bob@example.net",),
        _plain(
            1,
            "Ana <ana@demo.example>",
            "bob@example.net",
            "Minutes of Monday",
            "Here they are.\n\nAna",
            _TEXT,
        ),
    ),
    Sample(
        "carl@elsewhere.example",
        ("bob@example.net", "dora@example.net"),
        _plain(
            2,
            "=?utf-8?q?Carl_Gr=C3=BCn?= <carl@elsewhere.example>",
            "bob@example.net, dora@example.net",
            "=?utf-8?q?Gr=C3=BC=C3=9Fe_=3Cb=3Eund_mehr=3C/b=3E?=",
            _PARTS,
            'Content-Type: multipart/alternative; boundary="cut"',
        ),
    ),
    Sample(
        "winner@prizes.example",
        ("bob@example.net",),
        _plain(
            3,
            "Prizes <winner@prizes.example>",
            "bob@example.net",
            "You won the lottery",
            "Reply at once!",
            _TEXT,
        ),
    ),
    Sample(
        "news@shop.example",
        ("dora@example.net",),
        _plain(4, "Shop <news@shop.example>", "dora@example.net", "Read this later", "The news.", _TEXT),
    ),
    Sample(
        "ana@demo.example",
        ("bob@example.net", "bob+5xx@example.net"),
        _plain(
            5,
            "Ana <ana@demo.example>",
            "bob@example.net, bob+5xx@example.net",
            "To two mailboxes, of which one exists",
            "Each recipient has its own answer.",
            _TEXT,
        ),
    ),
    Sample(
        "ana@demo.example",
        ("dora+4xx@example.net",),
        _plain(6, "Ana <ana@demo.example>", "dora+4xx@example.net", "Busy", "Not taken now.", _TEXT),
    ),
    Sample(
        "",
        ("ana@demo.example",),
        _plain(
            7,
            "Mail Delivery <postmaster@example.net>",
            "ana@demo.example",
            "Undelivered mail",
            "Sorry.",
            _TEXT,
        ),
    ),
)


def send(host: str, port: int) -> int:
    """Send all samples, each on a connection of its own, as different senders would; return how many were taken."""
    taken = 0
    for sample in SAMPLES:
        try:
            with smtplib.SMTP(host, port, local_hostname="client.demo.example", timeout=30) as client:
                client.sendmail(sample.sender, sample.recipients, sample.content, ["BODY=8BITMIME"])
                taken += 1
        except smtplib.SMTPException:
            continue  # refused: that is what some of them are for
    return taken
