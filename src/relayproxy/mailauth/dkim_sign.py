"""Making a DKIM-Signature (RFC 6376 section 5): relaxed/relaxed, oversigned, and never with l=.

Returns the value of the field; the message is not touched. Must not know which domains there are, where keys are
kept, or what time it is.
"""

import base64
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from relayproxy.mailauth.canonical import body_digest, relaxed_header
from relayproxy.mailauth.dkim_keys import SigningKey
from relayproxy.model.message import Message

HEADERS = (
    "From",
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
"""Signed once more than they occur, even where they don't: nobody can add one of them afterwards."""

IF_PRESENT = ("Sender", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Id", "Feedback-ID")
"""Signed in the same way where they occur. A mailing list may add them where they don't, and often changes nothing
else, so that the signature holds."""

_WIDTH = 76
_SIGNATURE_LINE = 70
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*\Z")
_IDENTITY = re.compile(r"[!-:<>-~]*@(?P<domain>[A-Za-z0-9._-]+)\Z")  # no ";" and no "=" in the local part


@lru_cache(1000)
def check_names(domain: str, selector: str) -> None:
    """Raise ValueError for a domain (A-labels) or selector that can't be the name of a key record."""
    if len(f"{selector}._domainkey.{domain}") > 253:
        raise ValueError("the name of the key record is longer than 253 characters")
    for name in (domain, selector):
        if not _NAME.match(name.lower()) or any(len(label) > 63 for label in name.split(".")):
            raise ValueError(f"{name!r} is no host name")


def sign(
    message: Message,
    key: SigningKey,
    *,
    domain: str,
    selector: str,
    now: int,
    expire: int | None = None,
    identity: str | None = None,
    headers: Sequence[str] = HEADERS,
    if_present: Sequence[str] = IF_PRESENT,
    body: bytes | None = None,
) -> str:
    """Return the value of a DKIM-Signature field, folded with CRLF and a tab.

    `now` and `expire` are t= and x=, in seconds since the epoch; `identity` is i=, an address within `domain`;
    `body` is the body's digest (canonical.body_digest) where it is known already. Raises ValueError for names
    that can't stand in a tag, and for a message that doesn't have exactly one From.
    """
    check_names(domain, selector)
    names, block = _covered(message, headers, if_present)
    tags = [f"v=1; a={key.algorithm}; c=relaxed/relaxed; d={domain};"]
    times = f"t={now};" if expire is None else f"t={now}; x={expire};"
    tags.append(f"s={selector}; {times}")
    if identity is not None:
        tags.append(f"i={_checked(identity, domain)};")
    tags.append(_h_tag(names))
    tags.append(f"bh={_base64(body if body is not None else body_digest(message))};")
    tags.append("b=")
    value = "\r\n\t".join(tags)
    block += relaxed_header(f"DKIM-Signature: {value}".encode("ascii"))[:-2]
    signature = _base64(key.sign(block))
    lines = [signature[at : at + _SIGNATURE_LINE] for at in range(0, len(signature), _SIGNATURE_LINE)]
    return value + "\r\n\t ".join(lines)


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _checked(identity: str, domain: str) -> str:
    found = _IDENTITY.match(identity)
    if not found or not f".{found['domain']}".lower().endswith(f".{domain}".lower()):
        raise ValueError(f"{identity!r} is no address within {domain}")
    return identity


def _covered(
    message: Message, headers: Iterable[str], if_present: Iterable[str]
) -> tuple[tuple[str, ...], bytes]:
    """Return the names for h=, and in relaxed form the fields that they stand for: each name's from the bottom up."""
    by_name: dict[str, list[bytes]] = {}
    for field in message.fields:
        by_name.setdefault(field.name.lower(), []).append(field.raw)
    if len(by_name.get("from", ())) != 1:
        raise ValueError("only a message with exactly one From can be signed")
    present = [name for name in if_present if name.lower() in by_name]
    names: list[str] = []
    parts: list[bytes] = []
    for name in dict.fromkeys(("From", *headers, *present)):
        raws = by_name.pop(name.lower(), ())
        names += [name] * (len(raws) + 1)
        parts += map(relaxed_header, reversed(raws))
    return tuple(names), b"".join(parts)


@lru_cache(1000)
def _h_tag(names: tuple[str, ...]) -> str:
    """Return h= with line breaks behind colons; most messages have the same fields as another one before."""
    lines = [f"h={names[0]}"]
    for name in names[1:]:
        lines[-1] += ":"
        if len(lines[-1]) + len(name) < _WIDTH:
            lines[-1] += name
        else:
            lines.append(name)
    return "\r\n\t".join(lines) + ";"
