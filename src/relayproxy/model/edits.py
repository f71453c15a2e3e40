"""Edits are values; one function applies them, once, as splices.

Untouched octets stay the very same octets: an edit of one header field leaves all others and the body alone.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from relayproxy.model.address import Address
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.message import Message

_FOLD = 78
_NAME = re.compile(r"[!-9;-~]+\Z")
_BAD = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_FOLDED = re.compile(
    r"[^\x00-\x08\x0a-\x1f\x7f]*+(?:\r\n[ \t][^\S\x00-\x08\x0a-\x1f\x7f]*+[^\x00-\x08\x0a-\x1f\x7f]++)*"
)


def header_line(name: str, value: str) -> bytes:
    """Return one header field as octets, folded at blanks (RFC 5322 section 2.2.3).

    A value that already holds folds (CRLF and a blank) is kept as it is, and so are octets that are no UTF-8 in one
    that was read from a message (surrogates of the "surrogateescape" kind). Raises ValueError for a bad name, a control
    character, another surrogate, or a fold that would end the field.
    """
    if not _NAME.match(name):
        raise ValueError(f"{name!r} is not a header field name")
    if "\r\n" in value:
        if not _FOLDED.fullmatch(value):
            raise ValueError(f"the folds of {name} must be CRLF and a blank, with text on every line")
        return _octets(f"{name}: {value}\r\n")
    if _BAD.search(value):
        raise ValueError(f"the value of {name} holds a control character")
    line = f"{name}: {value}"
    if len(line) <= _FOLD:
        return _octets(f"{line}\r\n")
    return _folded(line)


def _folded(line: str) -> bytes:
    """Break `line` before blanks so that lines stay within 78 characters where the text allows."""
    words = re.split(r"(?<=\S)(?=[ \t]+\S)", line)
    out = [words[0]]
    width = len(words[0])
    for position, word in enumerate(words[1:]):
        if position and width + len(word) > _FOLD:
            out.append("\r\n")
            width = 0
        out.append(word)
        width += len(word)
    return _octets("".join(out) + "\r\n")


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _wanted(value: object, kind: type, what: str) -> None:
    """Complain where an edit is made, in the plugin's own hook, rather than where it is applied."""
    if not isinstance(value, kind):
        raise TypeError(f"{what} is {value!r}, wanted {kind.__name__}")


def _place(index: int | None) -> None:
    if index is not None and not (isinstance(index, int) and index >= 0):
        raise ValueError(f"{index!r} is not the number of a field, which counts from 0 at the top")


@dataclass(frozen=True, slots=True)
class AddHeader:
    """Add a field at the top (the default) or at the bottom of the header block; `line` is the field as octets."""

    name: str
    value: str
    bottom: bool = False
    line: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "line", header_line(self.name, self.value))


@dataclass(frozen=True, slots=True)
class DropHeader:
    """Remove the fields called `name`: all of them, or only number `index` from the top (0 is the first)."""

    name: str
    index: int | None = None

    def __post_init__(self) -> None:
        _wanted(self.name, str, "the name")
        _place(self.index)


@dataclass(frozen=True, slots=True)
class ReplaceHeader:
    """Give field number `index` called `name` another value, in its place; add it at the bottom if missing.

    `line` is the field as octets.
    """

    name: str
    value: str
    index: int = 0
    line: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "line", header_line(self.name, self.value))
        _place(self.index)


@dataclass(frozen=True, slots=True)
class ReplaceBody:
    """Give the message another body: octets with CRLF line ends."""

    body: bytes

    def __post_init__(self) -> None:
        if self.body.count(b"\r\n") != self.body.count(b"\n") or self.body.count(b"\r\n") != self.body.count(
            b"\r"
        ):
            raise ValueError("a body has CRLF line ends and no bare CR or LF")


@dataclass(frozen=True, slots=True)
class SetSender:
    """Change the envelope sender."""

    sender: Address

    def __post_init__(self) -> None:
        _wanted(self.sender, Address, "the sender")


@dataclass(frozen=True, slots=True)
class AddRecipient:
    """Add an envelope recipient."""

    recipient: Recipient

    def __post_init__(self) -> None:
        _wanted(self.recipient, Recipient, "the recipient")


@dataclass(frozen=True, slots=True)
class DropRecipient:
    """Remove an envelope recipient."""

    address: Address

    def __post_init__(self) -> None:
        _wanted(self.address, Address, "the address")


@dataclass(frozen=True, slots=True)
class ReplaceRecipient:
    """Send to `new` instead of `old`; its DSN options stay."""

    old: Address
    new: Address

    def __post_init__(self) -> None:
        _wanted(self.old, Address, "the old address")
        _wanted(self.new, Address, "the new address")


@dataclass(frozen=True, slots=True)
class SetRoute:
    """Send by the route of this name, whatever its conditions and whatever stands before it."""

    route: str

    def __post_init__(self) -> None:
        _wanted(self.route, str, "the route")


@dataclass(frozen=True, slots=True)
class RequireTls:
    """Send on over TLS only; a next hop without it is a 451 4.7.10."""


@dataclass(frozen=True, slots=True)
class SetCampaign:
    """Say whose mail it is and what it belongs to: the queue shares its turns out by that. "" for what isn't known."""

    tenant: str
    campaign: str = ""

    def __post_init__(self) -> None:
        _wanted(self.tenant, str, "the tenant")
        _wanted(self.campaign, str, "the campaign")


HeaderEdit: TypeAlias = AddHeader | DropHeader | ReplaceHeader
EnvelopeEdit: TypeAlias = (
    SetSender | AddRecipient | DropRecipient | ReplaceRecipient | SetRoute | RequireTls | SetCampaign
)
Edit: TypeAlias = HeaderEdit | ReplaceBody | EnvelopeEdit


def apply_to_message(message: Message, edits: Iterable[Edit]) -> Message:
    """Return the message with its edits applied in order; without any, the same object."""
    head: bytes = message.head
    changed = False
    fields: _Fields | None = None
    for edit in edits:
        match edit:
            case AddHeader(bottom=False):
                # What stands on top now may turn out to be its fold, so the fields are read again after it.
                head = edit.line + (fields.head() if fields else head)
                fields = None
            case AddHeader() | DropHeader() | ReplaceHeader():
                fields = fields or _Fields(head)
                fields.edit(edit)
            case ReplaceBody(new):
                head, fields = (fields.head() if fields else head), None
                message = Message(head, new)
                if not head.endswith(b"\r\n\r\n") and head != b"\r\n":
                    head = (head if head.endswith(b"\r\n") or not head else head + b"\r\n") + b"\r\n"
            case _:
                continue
        changed = True
    if not changed:
        return message
    return message.with_head(fields.head() if fields else head)


class _Fields:
    """A header block cut into fields once for a run of edits, because there may be as many edits as fields."""

    def __init__(self, head: bytes) -> None:
        fields = Message(head).fields
        self._raws: list[bytes] = [field.raw for field in fields]  # b"" for one that is dropped
        self._tail = head[sum(map(len, self._raws)) :]
        self._places: dict[str, list[int]] = {}
        for place, one in enumerate(fields):
            self._places.setdefault(one.name.lower(), []).append(place)

    def head(self) -> bytes:
        """Return the block as it is now."""
        return b"".join(self._raws) + self._tail

    def edit(self, edit: HeaderEdit) -> None:
        """Apply one edit."""
        places = self._places.setdefault(edit.name.lower(), [])
        match edit:
            case DropHeader(_, None):
                for place in places:
                    self._raws[place] = b""
                places.clear()
            case DropHeader(_, index):
                if index is not None and index < len(places):
                    self._raws[places.pop(index)] = b""
            case ReplaceHeader(index=index) if index < len(places):
                self._raws[places[index]] = edit.line
            case ReplaceHeader() | AddHeader():
                last = next((n for n in range(len(self._raws) - 1, -1, -1) if self._raws[n]), None)
                if last is not None and not self._raws[last].endswith(b"\r\n"):
                    self._raws[last] += b"\r\n"
                places.append(len(self._raws))
                self._raws.append(edit.line)


def apply_to_envelope(envelope: Envelope, edits: Iterable[Edit]) -> Envelope:
    """Return the envelope with its edits applied in order; without any, the same object."""
    for edit in edits:
        match edit:
            case SetSender(sender):
                envelope = replace(envelope, sender=sender)
            case AddRecipient(recipient):
                envelope = replace(envelope, recipients=(*envelope.recipients, recipient))
            case DropRecipient(address):
                kept = tuple(r for r in envelope.recipients if r.address.key != address.key)
                envelope = replace(envelope, recipients=kept)
            case ReplaceRecipient(old, new):
                swapped = tuple(
                    replace(r, address=new) if r.address.key == old.key else r for r in envelope.recipients
                )
                envelope = replace(envelope, recipients=swapped)
            case SetRoute(route):
                envelope = replace(envelope, route=route)
            case RequireTls():
                envelope = replace(envelope, tls_onward=True)
            case SetCampaign(tenant, campaign):
                envelope = replace(envelope, tenant=tenant, campaign=campaign)
            case _:
                pass
    return envelope
