"""XCLIENT and XFORWARD attribute lists (Postfix's XCLIENT_README and XFORWARD_README), and xtext (RFC 3461 section 4).

Pure reading and writing; who may use them is decided elsewhere.
"""

import re

from relayproxy.model.reply import Reply
from relayproxy.smtp.commands import CommandError

XCLIENT_NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")
XFORWARD_NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")
UNAVAILABLE = ("[UNAVAILABLE]", "[TEMPUNAVAIL]")

_HEX = re.compile(r"\+([0-9A-Fa-f]{2})")


def xtext_encode(text: str) -> str:
    """Write `text` as xtext: UTF-8 octets outside "!"..."~", and "+" and "=", as +XX."""
    return "".join(
        chr(octet) if 33 <= octet <= 126 and octet not in (0x2B, 0x3D) else f"+{octet:02X}"
        for octet in text.encode("utf-8")
    )


def xtext_decode(text: str) -> str:
    """Read xtext. Raises ValueError for anything that would be a control character."""
    decoded = (
        _HEX.sub(lambda match: chr(int(match[1], 16)), text)
        .encode("latin-1", "replace")
        .decode("utf-8", "replace")
    )
    if not decoded.isprintable():
        raise ValueError("xtext holds a control character")
    return decoded


def parse_attributes(arg: str, names: tuple[str, ...]) -> dict[str, str]:
    """Read `NAME=value ...` into a dict of upper-case names; an unavailable value becomes "".

    Raises CommandError (501 5.5.4).
    """
    attributes: dict[str, str] = {}
    for word in arg.split():
        name, equals, value = word.partition("=")
        name = name.upper()
        if not equals or name not in names:
            raise CommandError(Reply(501, "5.5.4", "Bad attribute"))
        try:
            decoded = xtext_decode(value)
        except ValueError:
            raise CommandError(Reply(501, "5.5.4", f"Bad value of {name}")) from None
        attributes[name] = "" if decoded.upper() in UNAVAILABLE else decoded
    if not attributes:
        raise CommandError(Reply(501, "5.5.4", "Attributes are missing"))
    return attributes


def format_attributes(attributes: dict[str, str]) -> str:
    """Write attributes for the wire; an empty value is [UNAVAILABLE]."""
    return " ".join(
        f"{name}={xtext_encode(value) if value else UNAVAILABLE[0]}" for name, value in attributes.items()
    )


def address_attribute(value: str) -> str:
    """Read an ADDR value: `IPV6:` in front of IPv6 addresses is optional on the wire and absent in the result."""
    return value[5:] if value[:5].upper() == "IPV6:" else value


def write_address(ip: str) -> str:
    """Write an ADDR value."""
    return f"IPV6:{ip}" if ":" in ip else ip
