"""Encoded-words of header fields (RFC 2047), decoded for people and for matching words.

The standard library's decoder raises for odd base64, takes a time that grows with the square of what a stranger wrote
(3 s for 56 kB), and imports a codec by any name that it finds. Here whatever can't be decoded stays as it is, in one
pass. Must not know which field a value is from.
"""

import binascii
import re
from encodings import normalize_encoding
from encodings.aliases import aliases

_WORD = re.compile(r"=\?([!#-')-+\--9;A-Z^-~]{1,40})\?([bBqQ])\?([ ->@-~]*)\?=")
_NO_TEXT = frozenset(
    {"base64_codec", "bz2_codec", "hex_codec", "mbcs", "quopri_codec", "rot_13", "uu_codec", "zlib_codec"}
)
_CHARSETS = {"koi8_u", "cp874"}.union(
    *({alias, name} for alias, name in aliases.items() if name not in _NO_TEXT)
)
"""Codecs for text that people write; Python has others (punycode, unicode_escape), some of them slow."""


def decode_words(value: str) -> str:
    """Decode the encoded-words of a header value (RFC 2047); what can't be decoded stays as it is.

    Neighbours of one charset are decoded together, because some senders cut characters in two.
    """
    if "=?" not in value:
        return value
    shown: list[str] = []
    octets = bytearray()
    charset = ""
    end = 0
    for word in _WORD.finditer(value):
        name = normalize_encoding(word[1].partition("*")[0]).lower()
        piece = _octets(word[2], word[3]) if name in _CHARSETS else None
        if piece is None:
            continue
        between = value[end : word.start()]
        adjacent = bool(charset) and (not between or between.isspace())
        if not adjacent or name != charset:
            shown.append(_text(octets, charset))
            octets.clear()
        if not adjacent:
            shown.append(between)
        octets += piece
        charset, end = name, word.end()
    return "".join((*shown, _text(octets, charset), value[end:]))


def codec_of(charset: str) -> str:
    """Return the codec of a text's character set, "" for an unknown one."""
    name = normalize_encoding(charset).lower()
    return name if name in _CHARSETS else ""


def in_charset(octets: bytes, charset: str) -> str:
    """Decode `octets`; what a text's character set can't say becomes U+FFFD, an unknown one is read as UTF-8."""
    return octets.decode(codec_of(charset) or "utf-8", "replace")


def _octets(encoding: str, text: str) -> bytes | None:
    if encoding in "qQ":
        return binascii.a2b_qp(text, header=True)
    try:
        return binascii.a2b_base64(text + "===")
    except binascii.Error:
        return None


def _text(octets: bytearray, charset: str) -> str:
    return octets.decode(charset, "replace") if octets else ""
