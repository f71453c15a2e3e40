"""The content of a MIME part: as it is in the message, and without its transfer encoding (RFC 2045 section 6).

Must not know the structure that the part stands in, or its character set.
"""

import binascii

from relayproxy.model.message import Message
from relayproxy.model.mime import Part

_NOT_BASE64 = bytes(
    set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
)


def encoded_octets(message: Message, part: Part, most: int | None = None) -> bytes:
    """Return a part's content as it is in the message, or the first `most` octets of it."""
    stop = part.stop if most is None else min(part.stop, part.body + most)
    return message.body_part(part.body, stop)


def decoded_octets(message: Message, part: Part, most: int | None = None) -> bytes:
    """Return a part's content without its transfer encoding, or what its first `most` octets say.

    Errs towards decoding: what isn't of the encoding's alphabet is skipped.
    """
    data = encoded_octets(message, part, most)
    match part.described.encoding:
        case "base64":
            return _from_base64(data)
        case "quoted-printable":
            return binascii.a2b_qp(data)
        case _:
            return data


def _from_base64(data: bytes) -> bytes:
    """Decode all that can be; a group that is cut off counts as far as it goes."""
    letters = data.translate(None, _NOT_BASE64)
    kept = len(letters) - (len(letters) % 4 == 1)
    return binascii.a2b_base64(letters[:kept] + b"=" * (-kept % 4))
