"""Making a DKIM-Signature (RFC 6376 section 5): relaxed/relaxed, oversigned, never with l=.

Returns the field's value; the message is not touched. Must not know which domains there are, nor the clock.
"""

import base64
import re

from relayproxy.mailauth.canonical import body_hash, relaxed_header
from relayproxy.mailauth.dkim_keys import SigningKey
from relayproxy.model.message import Message

OVERSIGNED = (
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
"""Signed once more than they occur, also when they don't: nobody can add another afterwards."""

IF_PRESENT = ("Sender", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Id", "Feedback-ID")
"""Signed (and oversigned) where they occur; forwarders may add them where they don't."""

_FOLD = 76
_DOMAIN = re.compile(
    r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\Z", re.IGNORECASE
)


def sign(
    message: Message,
    key: SigningKey,
    *,
    domain: str,
    selector: str,
    now: int,
    expire: int = 0,
    identity: str = "",
    oversigned: tuple[str, ...] = OVERSIGNED,
    if_present: tuple[str, ...] = IF_PRESENT,
    hashed: bytes = b"",
) -> str:
    """Return the value of a DKIM-Signature field, folded.

    `now` and `expire` (0: none) in seconds since the epoch; `identity` is the i= tag or "". `hashed` is the body's
    hash where it is known already. Raises ValueError for a domain or selector that can't stand in a tag, and for a
    message that doesn't have exactly one From.
    """
    if not (_DOMAIN.match(domain) and _DOMAIN.match(selector)):
        raise ValueError("the domain and the selector are host names")
    names, block = _chosen(message, oversigned, if_present)
    digest = base64.b64encode(hashed or body_hash(message.body)[0]).decode("ascii")
    tags = f"v=1; a={key.algorithm}; c=relaxed/relaxed; d={domain};\r\n\ts={selector}; t={now};"
    if expire:
        tags += f" x={expire};"
    if identity:
        tags += f"\r\n\ti={identity};"
    unsigned = f"{tags}\r\n\th={_folded(names)};\r\n\tbh={digest};\r\n\tb="
    block += relaxed_header(b"DKIM-Signature: " + unsigned.encode("ascii")).removesuffix(b"\r\n")
    signature = base64.b64encode(key.sign(block)).decode("ascii")
    lines = [signature[at : at + _FOLD - 6] for at in range(0, len(signature), _FOLD - 6)]
    return unsigned + "\r\n\t ".join(lines)


def _chosen(
    message: Message, oversigned: tuple[str, ...], if_present: tuple[str, ...]
) -> tuple[list[str], bytes]:
    """Return the names for h= and the canonical form of the fields that they stand for, from the bottom up."""
    by_name: dict[str, list[bytes]] = {}
    for field in message.fields:
        if field.name:
            by_name.setdefault(field.name.lower(), []).append(field.raw)
    if len(by_name.get("from", ())) != 1:
        raise ValueError("a message is signed when it has exactly one From")
    names: list[str] = []
    parts: list[bytes] = []
    for name in (*oversigned, *if_present):
        raws = by_name.get(name.lower(), [])
        if not raws and name in if_present:
            continue
        names += [name] * (len(raws) + 1)
        parts += [relaxed_header(raw) for raw in reversed(raws)]
    return names, b"".join(parts)


def _folded(names: list[str]) -> str:
    lines = [""]
    for number, name in enumerate(names):
        word = name + (":" if number + 1 < len(names) else "")
        if lines[-1] and len(lines[-1]) + len(word) > _FOLD - 4:
            lines.append("")
        lines[-1] += word
    return "\r\n\t ".join(lines)
