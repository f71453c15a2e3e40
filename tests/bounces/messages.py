"""Whole bounces, one for each way in which servers write them, with what they say.

The texts are ours, the forms those of the servers named. Lines end in LF here and in CRLF when they are read.
"""

from relayproxy.bounces.report import Fate, Kind
from relayproxy.model.message import Message

ORIGINAL = """\
Received: from relay.test
X-Relayproxy-Trace: abcdefghijkl=aa=m.1===
From: news@example.org
To: gone@example.net
Subject: User unknown, mailbox full

Mail to <other@example.com> is not what failed: 550 5.1.1 no such user
"""

DSN = """\
From: MAILER-DAEMON@mx.example.net
To: b+x@bounce.example.org
Subject: Undelivered Mail Returned to Sender
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
 boundary="A/1.2"

This is a MIME-encapsulated message.

--A/1.2
Content-Type: text/plain; charset=us-ascii

I could not deliver your message.

<gone@example.net>: host mx.example.net said: 550 5.1.1 User unknown

--A/1.2
Content-Type: message/delivery-status

Reporting-MTA: dns; mail.example.net
Original-Envelope-Id: env-1
Arrival-Date: Tue, 1 Sep 2026 10:00:00 +0000

Final-Recipient: rfc822; gone@example.net
Original-Recipient: rfc822;Gone@Example.net
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.example.net
Diagnostic-Code: smtp; 550 5.1.1 <gone@example.net>: Recipient address
    rejected: User unknown

Final-Recipient: rfc822; <slow@example.net>
Action: delayed (will retry)
Status: 4.2.2 (mailbox full)

--A/1.2
Content-Type: message/rfc822

{original}
--A/1.2--
"""

GONE = Fate(
    "Gone@Example.net",
    "failed",
    "5.1.1",
    "550 5.1.1 <gone@example.net>: Recipient address rejected: User unknown",
    "mx.example.net",
)

EXIM = """\
From: Mail Delivery System <Mailer-Daemon@exim.example>
Subject: Mail delivery failed: returning message to sender
X-Failed-Recipients: gone@example.net
Auto-Submitted: auto-replied

This message was created automatically by mail delivery software.

A message that you sent could not be delivered to one or more of its
recipients. This is a permanent error. The following address(es) failed:

  gone@example.net
    host mx.example.net [192.0.2.9]
    SMTP error from remote mail server after RCPT TO:<gone@example.net>:
    550 5.1.1 no such user here

------ This is a copy of the message, including all the headers. ------

{original}"""

QMAIL = """\
From: MAILER-DAEMON@qmail.example
Subject: failure notice

Hi. This is the qmail-send program at qmail.example.
I'm afraid I wasn't able to deliver your message to the following addresses.

<gone@example.net>:
192.0.2.9 does not like recipient.
Remote host said: 550 5.1.1 unknown user
Giving up on 192.0.2.9.

<full@example.net>:
Sorry, the mailbox is full. (#5.2.2)

--- Below this line is a copy of the message.

{original}"""

EXCHANGE = """\
From: postmaster@exchange.example
Subject: Undeliverable: your news
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: quoted-printable

<html><head><style>p {{ color: red }}</style></head><body><p>Delivery has failed to these recipients:</p>
<p><a href=3D"mailto:gone@example.net">gone@example.net</a><br>
The email address you entered couldn't be found.</p>
<p>mx.example.net gave this error: #550 5.1.10 RESOLVER.ADR.RecipientNotFound ##</p></body></html>
"""

LOOSE = """\
From: postmaster@gateway.example
Subject: Delivery failure
Content-Type: multipart/mixed; boundary=outer

--outer
Content-Type: multipart/report; boundary=inner

--inner
Content-Type: text/plain

Sorry.

--inner
Content-Type: text/plain; name="details.txt"

Reporting-MTA: dns; gateway.example
Final-Recipient: RFC822; gone@example.net
Action: failed
Status: 5.0.0
Final-Recipient: RFC822; two@example.net
Action: failed
Status: 5.2.2
--inner
Content-Type: text/rfc822-headers

X-Relayproxy-Trace: abcdefghijkl=aa=m.1===
Subject: hello
--inner--
--outer--
"""

ENCODED = """\
From: MAILER-DAEMON@mx.example
Subject: Delivery Status Notification (Failure)
Content-Type: multipart/report; boundary="b b"

--b b
Content-Type: message/global-delivery-status
Content-Transfer-Encoding: base64

UmVwb3J0aW5nLU1UQTogZG5zOyBteC5leGFtcGxlCgpGaW5hbC1SZWNpcGllbnQ6IHV0Zi04OyBn
XHh7RTl9QGV4YW1wbGUubmV0CkFjdGlvbjogZmFpbGVkClN0YXR1czogNS4xLjEK
--b b--
"""

PLAIN = """\
From: Postmaster <postmaster@appliance.example>
Subject: Message undeliverable

The mail to gone@example.net was refused by the server: 550 Mailbox does not exist
"""

DELAY = """\
From: Mail Delivery System <Mailer-Daemon@exim.example>
Subject: Warning: message delayed 24 hours

A message that you sent has not yet been delivered to one or more of its
recipients after more than 24 hours on the queue.

  slow@example.net
    451 4.3.0 try again

No action is required on your part. Delivery attempts will continue.
"""

ARF = """\
From: feedback@isp.example
Subject: FW: news
Content-Type: multipart/report; report-type=feedback-report; boundary=f

--f
Content-Type: text/plain

A member has complained.
--f
Content-Type: message/feedback-report

Feedback-Type: Abuse
User-Agent: Loop/1.0
Version: 1
Original-Mail-From: <b+x@bounce.example.org>
Original-Rcpt-To: <angry@isp.example>
--f
Content-Type: message/rfc822

{original}
--f--
"""

REPORTS = {
    "a DSN": (DSN, Kind.DSN, (GONE, Fate("slow@example.net", "delayed", "4.2.2", "I could not deliver your message. <gone@example.net>: host mx.example.net said: 550 5.1.1 User unknown"))),
    "Exim": (EXIM, Kind.TEXT, (Fate("gone@example.net", "failed", "5.1.1", "host mx.example.net [192.0.2.9] SMTP error from remote mail server after RCPT TO:<gone@example.net>: 550 5.1.1 no such user here"),)),
    "qmail": (QMAIL, Kind.TEXT, (Fate("gone@example.net", "failed", "5.1.1", "192.0.2.9 does not like recipient. Remote host said: 550 5.1.1 unknown user Giving up on 192.0.2.9."), Fate("full@example.net", "failed", "5.2.2", "Sorry, the mailbox is full. (#5.2.2)"))),
    "Exchange, HTML": (EXCHANGE, Kind.TEXT, (Fate("gone@example.net", "failed", "", "The email address you entered couldn't be found."),)),
    "loose parts": (LOOSE, Kind.DSN, (Fate("gone@example.net", "failed", "5.0.0", "Sorry."), Fate("two@example.net", "failed", "5.2.2", "Sorry."))),
    "base64 and RFC 6533": (ENCODED, Kind.DSN, (Fate("g\u00e9@example.net", "failed", "5.1.1"),)),
    "plain words": (PLAIN, Kind.TEXT, (Fate("gone@example.net", "failed", "5.0.0", "The mail to gone@example.net was refused by the server: 550 Mailbox does not exist"),)),
    "a delay": (DELAY, Kind.TEXT, (Fate("slow@example.net", "delayed", "4.3.0", "451 4.3.0 try again"),)),
    "a complaint": (ARF, Kind.COMPLAINT, (Fate("angry@isp.example", "failed", "", "A member has complained."),)),
}  # fmt: skip


def message_of(text: str) -> Message:
    return Message.from_bytes(text.format(original=ORIGINAL).replace("\n", "\r\n").encode())
