"""What can be wrong with the form of a message, by name, and the search for it. Must not know what follows from it."""

import re
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum

from relayproxy.api import HeaderField, Mail, Message
from relayproxy.mailauth.from_header import read_author
from relayproxy.model.encoded_words import decode_words
from relayproxy.model.file_names import extensions_of
from relayproxy.model.mime import Oddity, Part, read_tree
from relayproxy.model.mime_content import encoded_octets

_LONGEST_LINE = 998  # RFC 5322 section 2.1.1
_ONCE = frozenset(  # RFC 5322 section 3.6, RFC 2045 section 3
    {
        "from",
        "sender",
        "reply-to",
        "to",
        "cc",
        "bcc",
        "subject",
        "date",
        "message-id",
        "in-reply-to",
        "references",
    }
    | {"mime-version", "content-type", "content-transfer-encoding", "content-disposition"}
)
_DECODED = frozenset({"from", "sender", "reply-to", "to", "cc", "content-type", "content-disposition"})
_AMBIGUOUS_AUTHOR = frozenset(
    {"several-fields", "blank-before-colon", "disguised-field", "control-character", "source-route"}
    | {"unbalanced", "encoded-address", "text-after-address"}
)
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n")
_CONTROL_TEXT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_EIGHT_BIT = re.compile(rb"[\x80-\xff]")
_BLANK_FOLD = re.compile(rb"\r\n[ \t]+\r\n")
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


class Anomaly(StrEnum):
    """What is looked for."""

    REPEATED_FIELD = "repeated-field"
    BLANK_BEFORE_COLON = "blank-before-colon"
    NO_FIELD = "no-field"
    CONTROL_CHARACTER = "control-character"
    ENCODED_CONTROL = "encoded-control"
    AMBIGUOUS_AUTHOR = "ambiguous-author"
    ODD_AUTHOR = "odd-author"
    HEADER_BOMB = "header-bomb"
    BLANK_FOLD = "blank-fold"
    NO_SEPARATOR = "no-separator"
    EIGHT_BIT_HEADER = "eight-bit-header"
    LONG_LINE = "long-line"
    NO_BOUNDARY = "no-boundary"
    BAD_BOUNDARY = "bad-boundary"
    BOUNDARY_CONFLICT = "boundary-conflict"
    SAME_BOUNDARY = "same-boundary"
    PREFIX_BOUNDARY = "prefix-boundary"
    NO_PARTS = "no-parts"
    UNTERMINATED = "unterminated"
    HEADER_UNENDED = "part-header-unended"
    PART_NO_FIELD = "part-no-field"
    UNKNOWN_ENCODING = "unknown-encoding"
    ENCODED_MULTIPART = "encoded-multipart"
    ENCODED_MESSAGE = "encoded-message"
    BAD_BASE64 = "bad-base64"
    NAME_CONFLICT = "name-conflict"
    TOO_DEEP = "too-deep"
    TOO_MANY_PARTS = "too-many-parts"
    TOO_MUCH_HEADER = "too-much-header"
    TOO_MANY_LINES = "too-many-lines"


IN_WORDS: dict[Anomaly, str] = {
    Anomaly.REPEATED_FIELD: "a header field that may occur once occurs more often",
    Anomaly.BLANK_BEFORE_COLON: "a header field has a blank before its colon",
    Anomaly.NO_FIELD: "a line of the header is no field",
    Anomaly.CONTROL_CHARACTER: "the header holds a control character",
    Anomaly.ENCODED_CONTROL: "an encoded word holds a control character",
    Anomaly.AMBIGUOUS_AUTHOR: "From can be read in more than one way",
    Anomaly.ODD_AUTHOR: "From doesn't name one mailbox",
    Anomaly.HEADER_BOMB: "the header is too large",
    Anomaly.BLANK_FOLD: "a line of the header is blank but for spaces",
    Anomaly.NO_SEPARATOR: "no empty line ends the header",
    Anomaly.EIGHT_BIT_HEADER: "the header holds unencoded characters beyond ASCII",
    Anomaly.LONG_LINE: "a line of the header is longer than 998 octets",
    Anomaly.NO_BOUNDARY: "a multipart has no boundary",
    Anomaly.BAD_BOUNDARY: "a boundary is longer than 70 octets, or not ASCII",
    Anomaly.BOUNDARY_CONFLICT: "a multipart has several boundaries",
    Anomaly.SAME_BOUNDARY: "a multipart has the boundary of one around it",
    Anomaly.PREFIX_BOUNDARY: "a boundary looks like the end of another",
    Anomaly.NO_PARTS: "a multipart has no parts",
    Anomaly.UNTERMINATED: "a multipart has no end",
    Anomaly.HEADER_UNENDED: "no empty line ends the header of a part",
    Anomaly.PART_NO_FIELD: "a line of the header of a part is no field",
    Anomaly.UNKNOWN_ENCODING: "a transfer encoding is unknown",
    Anomaly.ENCODED_MULTIPART: "a multipart has a transfer encoding",
    Anomaly.ENCODED_MESSAGE: "a message within the message has a transfer encoding",
    Anomaly.BAD_BASE64: "a part that says it is base64 isn't",
    Anomaly.NAME_CONFLICT: "a file has names that end differently",
    Anomaly.TOO_DEEP: "the parts are nested too deeply",
    Anomaly.TOO_MANY_PARTS: "there are too many parts",
    Anomaly.TOO_MUCH_HEADER: "the headers of the parts are too large",
    Anomaly.TOO_MANY_LINES: "too many lines look like delimiters",
}
"""What is said about each, to the client too."""

DANGEROUS = frozenset(
    {Anomaly.REPEATED_FIELD, Anomaly.BLANK_BEFORE_COLON, Anomaly.NO_FIELD, Anomaly.CONTROL_CHARACTER}
    | {Anomaly.ENCODED_CONTROL, Anomaly.AMBIGUOUS_AUTHOR, Anomaly.HEADER_BOMB, Anomaly.NO_BOUNDARY}
    | {Anomaly.BOUNDARY_CONFLICT, Anomaly.SAME_BOUNDARY, Anomaly.PREFIX_BOUNDARY, Anomaly.ENCODED_MESSAGE}
    | {Anomaly.TOO_DEEP, Anomaly.TOO_MANY_PARTS, Anomaly.TOO_MUCH_HEADER, Anomaly.TOO_MANY_LINES}
)
"""Those by which two readers can be made to see different messages, or one to work for long."""


def find(mail: Mail, fields: int, octets: int) -> Iterator[tuple[Anomaly, str]]:
    """Yield the anomalies, each with a detail for the log or ""; a header above the limits is not read further."""
    message = mail.message
    head = message.head
    if len(head) > octets or len(message.fields) > fields:
        yield Anomaly.HEADER_BOMB, f"{len(message.fields)} fields, {len(head)} octets"
        return
    yield from _in_block(head, smtputf8=mail.envelope.smtputf8)
    yield from _in_fields(message)
    yield from _in_author(message)
    yield from _in_parts(message)


def _in_block(head: bytes, *, smtputf8: bool) -> Iterator[tuple[Anomaly, str]]:
    if _CONTROL.search(head):
        yield Anomaly.CONTROL_CHARACTER, ""
    if not head.endswith(b"\r\n\r\n") and head != b"\r\n":
        yield Anomaly.NO_SEPARATOR, ""
    if _BLANK_FOLD.search(head):
        yield Anomaly.BLANK_FOLD, ""
    if max(map(len, head.split(b"\r\n"))) > _LONGEST_LINE:
        yield Anomaly.LONG_LINE, ""
    if not smtputf8 and _EIGHT_BIT.search(head):
        yield Anomaly.EIGHT_BIT_HEADER, ""


def _in_fields(message: Message) -> Iterator[tuple[Anomaly, str]]:
    counts = Counter(field.name.lower() for field in message.fields)
    if repeated := [name for name in counts if name in _ONCE and counts[name] > 1]:
        yield Anomaly.REPEATED_FIELD, ", ".join(repeated)
    if counts[""]:
        yield Anomaly.NO_FIELD, ""
    if spaced := [field.name for field in message.fields if _is_spaced(field)]:
        yield Anomaly.BLANK_BEFORE_COLON, spaced[0]
    for field in message.fields:
        if field.name.lower() in _DECODED and b"=?" in field.raw:
            value = field.value
            if _CONTROL_TEXT.search(decode_words(value)) and not _CONTROL_TEXT.search(value):
                yield Anomaly.ENCODED_CONTROL, field.name
                return


def _is_spaced(field: HeaderField) -> bool:
    return bool(field.name) and field.raw[len(field.name) : len(field.name) + 1] != b":"


def _in_author(message: Message) -> Iterator[tuple[Anomaly, str]]:
    author = read_author(message)
    if author.anomalies:
        ambiguous = not _AMBIGUOUS_AUTHOR.isdisjoint(author.anomalies)
        yield Anomaly.AMBIGUOUS_AUTHOR if ambiguous else Anomaly.ODD_AUTHOR, author.reason


def _in_parts(message: Message) -> Iterator[tuple[Anomaly, str]]:
    tree = read_tree(message)
    if Oddity.REPEATED_FIELD in tree.oddities:
        parts = (part for part in tree.root.walk() if part.depth and part.described.repeated)
        for part in parts:
            yield Anomaly.REPEATED_FIELD, f"{', '.join(part.described.repeated)} of a part"
            break
    for oddity in sorted(tree.oddities - {Oddity.REPEATED_FIELD}):
        yield Anomaly(oddity.value), ""
    leaves = list(tree.root.leaves())
    if any(map(_has_other_names, leaves)):
        yield Anomaly.NAME_CONFLICT, ""
    if any(_is_no_base64(message, leaf) for leaf in leaves):
        yield Anomaly.BAD_BASE64, ""


def _has_other_names(part: Part) -> bool:
    """Whether two names of a file have no extension in common; readings of one name differ in how it is written."""
    names = [extensions_of(name) for name in part.described.names if "=?" not in name]
    return any(one.isdisjoint(names[0]) for one in names[1:] if one and names[0])


def _is_no_base64(message: Message, part: Part) -> bool:
    if part.described.encoding != "base64":
        return False
    letters = encoded_octets(message, part).translate(None, b"\r\n \t").rstrip(b"=")
    return bool(letters.translate(None, _BASE64)) or len(letters) % 4 == 1
