"""The parts of mails that carry reports: a compressed attachment in base64. Must not know what it holds."""

import base64

_LINE = 76


def encoded(octets: bytes) -> bytes:
    """Return octets in base64, in lines with CRLF (RFC 2045 section 6.8)."""
    text = base64.b64encode(octets)
    return b"".join(text[start : start + _LINE] + b"\r\n" for start in range(0, len(text), _LINE))
