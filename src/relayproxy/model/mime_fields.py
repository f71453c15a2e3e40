"""The fields that describe a MIME part: its type, parameters, encoding, and every name that a reader may show for it.

Mail readers disagree about odd parameters (RFC 2231 beside plain ones, encoded-words in quotes, quotes that don't end),
so a part has as many names as there are readings. Must not know the structure that the part stands in.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from relayproxy.model.encoded_words import decode_words, in_charset

LONGEST_NAME = 1000
"""Characters of a name that are kept."""
_LONGEST_VALUE = 16_384
_MOST_PARAMETERS = 200
_MOST_NAMES = 20
_FIELD = re.compile(
    rb"\r\n(content-(?:type|disposition|transfer-encoding|location))[ \t]*:([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)",
    re.IGNORECASE,
)
_PARAMETER = re.compile(
    r';\s*([^\s=;"]{1,80})\s*=\s*(?:"((?:[^"\\]|\\.)*)("?)|([^;]*))',
    re.DOTALL,
)
_TYPE = re.compile(r"[^\s/]+/[^\s/]+\Z")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_COMMENT = re.compile(r"\([^()]*\)")


@dataclass(frozen=True, slots=True)
class Described:
    """What the header of a part says.

    `type` is such as "text/plain" in lower case, `disposition` "attachment", "inline" or "", `encoding` the
    Content-Transfer-Encoding in lower case ("7bit" without one), `charset` in lower case or "". `boundaries` are all
    different ones, in their order. `names` are the file names by every reading. `repeated` are the fields that occur
    more than once, in lower case.
    """

    type: str = "text/plain"
    disposition: str = ""
    encoding: str = "7bit"
    charset: str = ""
    boundaries: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()


PLAIN = Described()
"""What a part is that says nothing (RFC 2045 section 5.2)."""
EMBEDDED = Described("message/rfc822")
"""What a part of a multipart/digest is that says nothing (RFC 2046 section 5.1.5)."""


def describe(head: bytes, default: Described = PLAIN) -> Described:
    """Read a header block, as octets with CRLF line ends; without a Content-Type it is of `default`'s. Linear in its size.

    Of several Content-Types the first with a boundary counts, or else the first.
    """
    values: dict[str, list[str]] = {}
    for match in _FIELD.finditer(b"\r\n" + head):
        value = match[2][:_LONGEST_VALUE].replace(b"\r\n", b"").decode("utf-8", "replace").strip()
        values.setdefault(match[1].decode("ascii").lower(), []).append(value)
    if not values:
        return default
    types = [_Value(value) for value in values.get("content-type", ())]
    dispositions = [_Value(value) for value in values.get("content-disposition", ())]
    chosen = next((one for one in types if one.all("boundary")), types[0] if types else _NOTHING)
    names = [name for one in dispositions for name in one.names("filename")]
    names += [name for one in types for name in one.names("name")]
    # Some readers look for either parameter in either field.
    names += [name for one in dispositions for name in one.names("name")]
    names += [name for one in types for name in one.names("filename")]
    encoding = values.get("content-transfer-encoding", [""])[0]
    return Described(
        chosen.type if types else default.type,
        dispositions[0].word if dispositions else "",
        _COMMENT.sub("", encoding).strip().lower() or "7bit",
        next(iter(chosen.all("charset")), "").lower(),
        tuple(dict.fromkeys(value.rstrip(" ") for one in types for value in one.all("boundary"))),
        tuple(dict.fromkeys(names))[:_MOST_NAMES],
        tuple(name for name, found in values.items() if len(found) > 1),
    )


class _Value:
    """A structured value: a word and its parameters, each as it was written."""

    def __init__(self, value: str) -> None:
        word, _, rest = value.partition(";")
        self.word = _COMMENT.sub("", word).strip().lower()
        self._parameters = tuple(_parameters(";" + rest)) if rest else ()

    @property
    def type(self) -> str:
        """The word as a media type; what is none is plain text, or mixed if it would be some multipart."""
        if _TYPE.match(self.word):
            return self.word
        return (
            "multipart/mixed" if self.word.startswith("multipart") and self.all("boundary") else "text/plain"
        )

    def all(self, name: str) -> list[str]:
        """Return every reading of a parameter, plain ones first (RFC 2231 for those in pieces)."""
        plain = [reading for key, readings in self._parameters if key == name for reading in readings]
        return [value for value in (*plain, *self._in_pieces(name)) if value]

    def names(self, name: str) -> Iterator[str]:
        """Yield the readings of a file name, with encoded-words decoded and not."""
        for value in self.all(name):
            yield decode_words(value)[:LONGEST_NAME]
            yield value[:LONGEST_NAME]

    def _in_pieces(self, name: str) -> Iterator[str]:
        pieces: dict[int, tuple[str, bool]] = {}
        for key, readings in self._parameters:
            stem, star, more = key.partition("*")
            if stem != name or not star:
                continue
            coded = more.endswith("*") or not more
            digits = more.rstrip("*")
            number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 4 else 0
            if not more:
                yield joined([(readings[0], True)])
            else:
                pieces.setdefault(number, (readings[0], coded))
        if pieces:
            yield joined([pieces[number] for number in sorted(pieces)])


_NOTHING = _Value("")


def _parameters(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the names of parameters in lower case, each with the ways to read its value."""
    for count, match in enumerate(_PARAMETER.finditer(text)):
        if count >= _MOST_PARAMETERS:
            return
        key, quoted, ended, bare = match[1].lower(), match[2], match[3], match[4]
        if bare is not None:
            bare = bare.strip()
            token = bare.split(maxsplit=1)[0] if bare else ""
            yield key, (token, bare) if token != bare else (bare,)
        elif ended:
            value = _ESCAPED.sub(r"\1", quoted)
            yield key, (value, quoted) if value != quoted else (value,)
        else:
            yield key, (quoted, quoted.partition(";")[0].strip())


def joined(pieces: list[tuple[str, bool]]) -> str:
    """Join the pieces of a value (RFC 2231 sections 3 and 4); the first may name a character set."""
    charset = "utf-8"
    first, coded = pieces[0]
    if coded and first.count("'") >= 2:
        charset, _, first = first.split("'", 2)
        pieces = [(first, True), *pieces[1:]]
    octets = b"".join(
        unquote_to_bytes(value) if coded else value.encode("utf-8", "replace") for value, coded in pieces
    )
    return in_charset(octets[: 4 * LONGEST_NAME], charset)
