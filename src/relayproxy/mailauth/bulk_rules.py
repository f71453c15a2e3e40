"""What the header of a message owes to large receivers, as far as it can be told without DNS.

The rules are those that Gmail, Yahoo and Microsoft publish for bulk senders, on top of RFC 5322 and RFC 8058. Must not
know DNS, the clock, or what follows from a rule that is broken.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

from relayproxy.mailauth.dkim_header import SignatureFault, read_signature
from relayproxy.mailauth.from_header import Author
from relayproxy.model.message import Message
from relayproxy.model.reply import printable

SINGLETONS = (
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
)
"""Fields that occur once at most (RFC 5322 section 3.6, RFC 2045); From has a rule of its own."""

ONE_CLICK = ("list-unsubscribe", "list-unsubscribe-post")

_SIGNATURES = 10  # of a message, that are looked at
_LINE = 998  # octets without CRLF
_LONGEST = 2000  # characters of a value, ten times what any honest one has
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_ZONES = {"ut": 0, "gmt": 0, "utc": 0, "z": 0, "est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6,
          "pst": -8, "pdt": -7}  # fmt: skip
_DATE = re.compile(
    r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[ \t]*,)?[ \t]*([0-9]{1,2})[ \t]+([a-z]{3})[ \t]+([0-9]{4})"
    r"[ \t]+([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?[ \t]+([+-][0-9]{4}|[a-z]{1,3})[ \t]*(?:\([^()]*\)[ \t]*)?\Z",
    re.IGNORECASE,
)
_MESSAGE_ID = re.compile(r'<(?:[^\s<>@"]+|"[^\s<>"]+")@(?:[^\s<>@\[\]]+|\[[^\s<>@\[\]]+\])>\Z')
_LINK = re.compile(r"<([^<>]*)>")
_HTTPS = re.compile(r"https://[!-;=?-~]+\Z", re.IGNORECASE)
_BULK_FIELDS = ("list-id", "list-unsubscribe", "feedback-id")
_PRECEDENCES = frozenset({"bulk", "list", "junk", "first-class", "special-delivery"})
_BULK_PRECEDENCES = frozenset({"bulk", "list", "junk"})


@dataclass(frozen=True, slots=True)
class Problem:
    """A rule that is broken: `check` names the rule, `reason` says it in words fit for a reply.

    `unknown` says that DNS gave no answer, so that the rule may be kept after all.
    """

    check: str
    reason: str
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Signer:
    """A domain (A-labels) that signs, and the names (lower case) of the fields that it covers."""

    domain: str
    covers: frozenset[str]


def signers_of(message: Message) -> list[Signer]:
    """Return who has signed a message, as its signatures say; whether they hold is not looked at."""
    found = []
    for field in message.all("DKIM-Signature")[:_SIGNATURES]:
        try:
            signature = read_signature(field.raw)
        except SignatureFault:
            continue
        found.append(Signer(signature.claim.domain, frozenset(signature.names)))
    return found


def is_bulk(message: Message) -> bool:
    """Whether a message says that it is one of many: by List-Id, List-Unsubscribe, Feedback-ID or Precedence."""
    precedence = (message.header("Precedence") or "").lower()
    return precedence in _BULK_PRECEDENCES or any(message.header(name) is not None for name in _BULK_FIELDS)


def check_from(author: Author, free_mail: Collection[str]) -> Iterator[Problem]:
    """Yield what is wrong with From: not one mailbox in one way, or of a domain whose mail comes from nowhere else."""
    if author.anomalies:
        yield Problem("from", author.reason)
    elif author.domain in free_mail:
        yield Problem("from", f"From is at {author.domain}, which asks to refuse such mail from others")


def check_singletons(message: Message) -> Iterator[Problem]:
    """Yield the fields that occur more than once and must not."""
    counts = dict.fromkeys(map(str.lower, SINGLETONS), 0)
    for field in message.fields:
        name = field.name.lower()
        if name in counts:
            counts[name] += 1
    for name in SINGLETONS:
        if counts[name.lower()] > 1:
            yield Problem("singletons", f"{name} occurs {counts[name.lower()]} times")


def check_lines(message: Message) -> Iterator[Problem]:
    """Yield a line that is longer than 998 octets (RFC 5322 section 2.1.1), which some relay will wrap.

    Looks at every thousandth octet and back from there, so a body of any size takes no time to speak of.
    """
    for part in (message.head, message.body):
        start = 0
        while len(part) - start > _LINE:
            end = bytes(part[start : start + _LINE + 2]).rfind(b"\n")
            if end < 0:
                yield Problem(
                    "lines", f"a line is longer than {_LINE} octets: relays wrap it, and signatures break"
                )
                return
            start += end + 1


def check_message_id(message: Message) -> Iterator[Problem]:
    """Yield what is wrong with Message-ID (RFC 5322 section 3.6.4)."""
    value = message.header("Message-ID")
    if value is None:
        yield Problem("message_id", "there is no Message-ID")
    elif len(value) > _LONGEST or not _MESSAGE_ID.match(value):
        yield Problem("message_id", "Message-ID is not of the form <left@right>")


def check_date(message: Message, now: float, past: float, future: float) -> Iterator[Problem]:
    """Yield what is wrong with Date; `now` in seconds since the epoch, `past` and `future` in seconds from it."""
    value = message.header("Date")
    moment = None if value is None else read_date(value)
    if value is None:
        yield Problem("date", "there is no Date")
    elif moment is None:
        yield Problem("date", "Date is malformed")
    elif moment < now - past:
        yield Problem("date", f"Date is {int((now - moment) // 3600)} hours old")
    elif moment > now + future:
        yield Problem("date", f"Date is {int((moment - now) // 3600)} hours in the future")


def read_date(value: str) -> float | None:
    """Return the seconds since the epoch that a Date field means (RFC 5322 section 3.3), None if it means none."""
    found = _DATE.match(value) if len(value) <= _LONGEST else None
    if not found or found[2].lower() not in _MONTHS:
        return None
    zone = found[7].lower()
    try:
        offset = (
            timedelta(hours=_ZONES[zone])
            if zone in _ZONES
            else timedelta(hours=int(zone[:3]), minutes=int(zone[0] + zone[3:]))
        )
        moment = datetime(
            int(found[3]),
            _MONTHS.index(found[2].lower()) + 1,
            int(found[1]),
            int(found[4]),
            int(found[5]),
            min(int(found[6] or 0), 59),  # a leap second is one
            tzinfo=timezone(offset),
        )
        return (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None


def check_automatic(message: Message, *, null_sender: bool) -> Iterator[Problem]:
    """Yield what is wrong with the marks of mail that no person wrote (RFC 3834 section 5; Precedence of old)."""
    automatic = message.header("Auto-Submitted")
    if null_sender and (automatic is None or automatic.lower().startswith("no")):
        yield Problem(
            "automatic", "the sender is null, and Auto-Submitted does not say that this is automatic"
        )
    precedence = message.header("Precedence")
    if precedence is not None and precedence.lower() not in _PRECEDENCES:
        yield Problem("automatic", f"Precedence is {printable(precedence, 40)!r}, which nobody understands")


def check_unsubscribe(message: Message, signers: Iterable[Signer]) -> Iterator[Problem]:
    """Yield what keeps the reader's mail program from unsubscribing with one click (RFC 8058 sections 3.1 and 4)."""
    links, posts = message.all("List-Unsubscribe"), message.all("List-Unsubscribe-Post")
    if not links:
        yield Problem("unsubscribe", "there is no List-Unsubscribe")
        return
    if len(links) > 1 or len(links[0].raw) > _LONGEST:
        yield Problem("unsubscribe", "List-Unsubscribe occurs more than once, or is too long")
        return
    if not any(map(_HTTPS.match, (link.strip() for link in _LINK.findall(links[0].value)))):
        yield Problem("unsubscribe", "List-Unsubscribe has no https address in angle brackets")
    if [post.value.replace(" ", "").lower() for post in posts] != ["list-unsubscribe=one-click"]:
        yield Problem(
            "unsubscribe", "List-Unsubscribe-Post is not one field that says List-Unsubscribe=One-Click"
        )
    elif not any(signer.covers.issuperset(ONE_CLICK) for signer in signers):
        yield Problem(
            "unsubscribe", "List-Unsubscribe and List-Unsubscribe-Post are not under a DKIM signature"
        )
