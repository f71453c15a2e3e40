"""Bounces written for people alone: qmail, Exim, old Exchange and others that send no delivery status.

Finds whom a text is about and what it says of them. Must not decide whether a message is a bounce at all: that is
known from its envelope and its header fields.
"""

import re
from collections.abc import Iterator

from relayproxy.bounces.dsn import status_in, tidy
from relayproxy.bounces.report import Fate

_MOST_LINES = 400
_LONGEST_LINE = 1000
_MOST_FATES = 50
_MOST_DIAGNOSIS = 12  # lines
_RETURNED = re.compile(
    r"^[ \t>]{0,20}+(?:-{2,80}+|={2,80}+|_{2,80}+)?+[ \t]{0,20}+(?:below this line is a copy of the message|this is a copy of (?:the|your) message|"
    r"(?:the )?(?:header of the )?original message|returned message|message headers? follows?|"
    r"(?:start|begin(?:ning)?) of (?:the )?(?:returned|original|forwarded) message|undelivered message|"
    r"your message|transcript of (?:the )?message|unsent message|message header)\b.{0,60}$",
    re.IGNORECASE | re.MULTILINE,
)
_ADDRESS = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.-]{1,253}"
_OPENS = re.compile(
    rf"[ \t]{{0,20}}+(?:[-*\u2022][ \t]{{0,4}})?(?:(?:to|recipient|rcpt to|failed recipient|address)[ \t]{{0,4}}:?[ \t]{{0,4}})?<?(?:mailto:)?({_ADDRESS})>?[ \t]{{0,20}}(?:[:;,(.]|$)(.*)",
    re.IGNORECASE,
)
_NAMED = re.compile(
    rf"\b(?:to|for|recipient|address|mailbox|user|account)\b[^<@\n]{{0,40}}?[<'\"(]?({_ADDRESS})",
    re.IGNORECASE,
)
_DELAYED = re.compile(
    r"\b(?:delay(?:ed)?|still being retried|will (?:be )?(?:retry|retried|keep trying|continue)|not yet been delivered|"
    r"warning[: ] (?:message|could not)|do not need to resend|temporary (?:delivery )?(?:problem|delay))\b",
    re.IGNORECASE,
)
_GIVEN_UP = re.compile(
    r"\b(?:permanent|giving up|given up|gave up|retry timeout exceeded|retry time not reached|too long|expired)\b",
    re.IGNORECASE,
)

BOUNCE_SUBJECT = re.compile(
    r"\b(?:undeliver\w*|non[- ]?deliver\w*|delivery (?:status|failure|failed|report|notification|problem|has failed)|"
    r"mail delivery|failure notice|returned (?:mail|to sender)|mail (?:system )?error|message (?:not|undeliver)|"
    r"bounce\w*|could not be delivered|not delivered|delayed mail|rejected mail|"
    r"unzustellbar\w*|nicht zustellbar|mail non remise|non remis|correo no entregado|no se puede entregar|"
    r"mancato recapito|impossibile recapitare|n(?:a|\u00e3)o (?:entregue|pode ser entregue))\b",
    re.IGNORECASE,
)
BOUNCE_SENDER = re.compile(
    r"(?:mailer-?daemon|postmaster|mail[- ]?delivery|maildelivery|mdaemon|bounces?)\b", re.IGNORECASE
)


def is_delay(text: str) -> bool:
    """Whether a text says that somebody keeps trying."""
    return bool(_DELAYED.search(text)) and not _GIVEN_UP.search(text)


def cut(text: str) -> tuple[str, str]:
    """Return what a text says, and what it returns of the message that it is about."""
    found = _RETURNED.search(text)
    return (text[: found.start()], text[found.end() :].lstrip("\n-= \t")) if found else (text, "")


def fates_in(text: str, named: tuple[str, ...] = ()) -> tuple[Fate, ...]:
    """Return whom a text is about; `named` are addresses that header fields name already.

    Without anybody it is one fate of an unknown recipient, if the text has a reply or status code at all.
    """
    lines = [line[:_LONGEST_LINE] for line in text.split("\n", _MOST_LINES)[:_MOST_LINES]]
    action = "delayed" if is_delay(text) else "failed"
    found: dict[str, Fate] = {}
    for address, diagnosis in _paragraphs(lines):
        if address.lower() not in {key.lower() for key in found} and len(found) < _MOST_FATES:
            found[address] = Fate(address, action, status_in(diagnosis), tidy(diagnosis))
    whole = tidy(text)
    for address in named:
        if address.lower() not in {key.lower() for key in found}:
            found[address] = Fate(address, action, status_in(whole), whole)
    if not found:
        one = _NAMED.search(whole)
        if one or status_in(whole):
            address = one[1].rstrip(".") if one else ""
            return (Fate(address, action, status_in(whole), whole),)
    return tuple(fate if fate.diagnosis else _with(fate, whole) for fate in found.values())


def _with(fate: Fate, text: str) -> Fate:
    return Fate(fate.address, fate.action, fate.status or status_in(text), text, fate.remote)


def _paragraphs(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield each address that begins a line, with what follows it until a blank line or the next address."""
    address, words, blanks = "", list[str](), 0
    for line in lines:
        opens = _OPENS.match(line)
        if opens:
            if address:
                yield address, " ".join(words)
            address, words, blanks = opens[1].rstrip("."), [opens[2]], 0
        elif address and not line.strip():
            blanks += 1
            # One blank line right behind the address is common; the next one ends what is said of it.
            if blanks > 1 or any(word.strip() for word in words):
                yield address, " ".join(words)
                address, words = "", []
        elif address and len(words) < _MOST_DIAGNOSIS:
            words.append(line.strip())
    if address:
        yield address, " ".join(words)
