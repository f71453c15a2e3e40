"""headers: add, remove and replace header fields, and mark the subject.

Every change is an edit of one field; all other octets stay as they came. Which of these edits break a DKIM
signature stands on the plugin's page of the documentation. Must not know how edits are applied.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from email.errors import MessageError
from typing import Annotated, NamedTuple
from urllib.parse import quote

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from relayproxy.api import (
    AddHeader,
    App,
    DropHeader,
    Edit,
    Edits,
    HeaderField,
    Mail,
    Plugin,
    ReplaceHeader,
    Settings,
    hook,
)

_MOST = 900  # octets of a value: a line may have 998 (RFC 5322 section 2.1.1), and the name is in it too
_WORD_ROOM = 45  # octets that fit base64-encoded into an encoded-word of 75 characters (RFC 2047 section 2)
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_MARK = re.compile(r"\s*(?:[^\W\d_]{1,8}(?:\[\d+\]|\(\d+\))?\s?[:\uff1a]|\[[^\[\]]{1,40}\])\s*")

_TRACE = "received"  # never ours to touch: loop detection counts it (RFC 5321 section 4.4)
_ONCE = frozenset(  # RFC 5322 section 3.6
    {"bcc", "cc", "date", "from", "in-reply-to", "message-id", "references", "reply-to"}
    | {"sender", "subject", "to"}
)
_FREE_TEXT = frozenset({"subject", "comments", "organization"})


class _Context(NamedTuple):
    mail: Mail
    route: str
    hostname: str


PLACEHOLDERS: Mapping[str, Callable[[_Context], str]] = {
    "id": lambda c: c.mail.id,
    "hostname": lambda c: c.hostname,
    "route": lambda c: c.route,
    "listener": lambda c: c.mail.client.listener,
    "direction": lambda c: c.mail.direction.value,
    "client.ip": lambda c: c.mail.client.ip,
    "client.ptr": lambda c: c.mail.client.ptr,
    "client.helo": lambda c: c.mail.client.helo,
    "client.identity": lambda c: c.mail.client.identity,
    "client.tls": lambda c: c.mail.client.tls.version if c.mail.client.tls else "",
    "sender": lambda c: c.mail.envelope.sender.key,
    "sender.domain": lambda c: c.mail.envelope.sender.ascii_domain,
    "recipients_count": lambda c: str(len(c.mail.envelope.recipients)),
    "size": lambda c: str(c.mail.message.size),
    "score": lambda c: f"{c.mail.score:.1f}",
}
"""What a template may name. Recipients are not among it: their names in a header would give away a Bcc."""


def _quoting_hint(value: object) -> object:
    if isinstance(value, dict):
        raise ValueError(  # noqa: TRY004  (the one that pydantic turns into a located error)
            'put the value in quotes: "{id}", as YAML takes a text that begins with { for a mapping'
        )
    return value


def _template(text: str) -> str:
    for token in _TOKEN.finditer(text):
        name = token[1]
        if name is not None and name not in PLACEHOLDERS:
            near = get_close_matches(name, PLACEHOLDERS, n=1)
            hint = f"did you mean {{{near[0]}}}?" if near else f"there are {', '.join(PLACEHOLDERS)}"
            raise ValueError(f"there is no placeholder {{{name}}}; {hint}")
        if token[0] in "{}":
            raise ValueError(f"a brace stands alone; to write one as text, double it: {token[0] * 2}")
    AddHeader("X-Template", text)
    return text


def _field_name(name: str) -> str:
    AddHeader(name, "")
    if name.lower() == _TRACE:
        raise ValueError("Received is written by the relay itself and left alone by everyone else")
    return name


def _once(name: str) -> str:
    if name.lower() in _ONCE:
        raise ValueError(f"a message has one {name} at most (RFC 5322 section 3.6): use replace")
    return name


def _removable(name: str) -> str:
    if name == "*" or name.lower() == "from":
        raise ValueError(f"{name} can't be removed: a message without From is none")
    _field_name(name.removesuffix("*"))
    return name


def _marking(text: str) -> str:
    text = text.strip()
    if not text or "=?" in text:
        raise ValueError("a prefix is plain text; it is encoded where it has to be")
    AddHeader("Subject", text)
    return text


FieldName = Annotated[str, AfterValidator(_field_name)]
Template = Annotated[str, BeforeValidator(_quoting_hint), AfterValidator(_template)]


class HeadersSettings(Settings):
    """What to do, in this order: remove, replace, add, prefix the subject."""

    remove: tuple[Annotated[str, AfterValidator(_removable)], ...] = ()
    """Names of fields to remove, all of each name. A `*` at the end stands for any rest: `X-Spam-*`."""
    replace: dict[FieldName, Template] = Field(default_factory=dict)
    """Fields and their new values: afterwards there is exactly one of each name, in place of the first."""
    add: dict[Annotated[FieldName, AfterValidator(_once)], Template] = Field(default_factory=dict)
    """Fields to put on top of the header, in this order, beside any others of their name."""
    subject_prefix: Annotated[str, Field(max_length=60), AfterValidator(_marking)] | None = None
    """A text to put in front of the subject, unless it is there already, also after `Re:` and the like."""

    @model_validator(mode="after")
    def _consistent(self) -> "HeadersSettings":
        if not (self.remove or self.replace or self.add or self.subject_prefix):
            raise ValueError("nothing to do: give remove, replace, add or subject_prefix")
        if self.subject_prefix and any(name.lower() == "subject" for name in (*self.remove, *self.replace)):
            raise ValueError("the subject can be prefixed or else replaced or removed")
        for name, text in (*self.replace.items(), *self.add.items()):
            if not (text.isascii() or name.lower().startswith("x-") or name.lower() in _FREE_TEXT):
                raise ValueError(f"{name} has a syntax of its own and takes ASCII text only")
        return self


class Headers(Plugin[HeadersSettings]):
    """Edit the header as the settings say."""

    name = "headers"
    settings = HeadersSettings

    def __init__(self, options: HeadersSettings) -> None:
        super().__init__(options)
        self._hostname = ""

    @hook
    def startup(self, app: App) -> None:
        """Remember our own name for the placeholder."""
        self._hostname = app.hostname

    @hook
    def before_forward(self, mail: Mail, route: str) -> Edits:
        """Return the edits for this message."""
        context = _Context(mail, route, self._hostname)
        return [
            *_removals(mail, self.options.remove),
            *self._replacements(context),
            *self._additions(context),
            *self._subject(mail),
        ]

    def _replacements(self, context: _Context) -> Iterator[Edit]:
        for name, template in self.options.replace.items():
            value = render(template, context)
            if not value:
                # Leaving the old value would let a sender's forgery stand where we have nothing to say.
                yield DropHeader(name)
                continue
            for index in range(len(context.mail.message.all(name)) - 1, 0, -1):
                yield DropHeader(name, index)
            yield ReplaceHeader(name, value)

    def _additions(self, context: _Context) -> Iterator[Edit]:
        for name, template in reversed(self.options.add.items()):
            if value := render(template, context):
                yield AddHeader(name, value)

    def _subject(self, mail: Mail) -> Iterator[Edit]:
        prefix = self.options.subject_prefix
        if prefix is None:
            return
        fields = mail.message.all("Subject")
        if not fields:
            yield ReplaceHeader("Subject", prefixed(b"", prefix))
        for index, field in enumerate(fields):
            if not is_marked(field, prefix):
                yield ReplaceHeader(field.name, prefixed(field.raw.partition(b":")[2], prefix), index)


def _removals(mail: Mail, patterns: Iterable[str]) -> Iterator[Edit]:
    present = dict.fromkeys(field.name.lower() for field in mail.message.fields if field.name)
    for pattern in map(str.lower, patterns):
        for name in present:
            hit = name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
            if hit and name not in {_TRACE, "from"}:
                yield DropHeader(name)


def render(template: str, context: _Context) -> str:
    """Fill in a template; "" when nothing but blanks comes out.

    Everything that a client could have chosen is percent-encoded (RFC 3986 section 2.1) but for letters,
    digits and the characters of ordinary addresses, so it can end no quote, comment, address or field and
    begin no encoded-word. Text of the template outside ASCII becomes encoded-words (RFC 2047).
    """

    def fill(token: re.Match[str]) -> str:
        if token[1] is None:
            return token[0][0]
        return quote(PLACEHOLDERS[token[1]](context), safe="!#$&'*+-/=^_`{|}~.@:[]")

    text = _TOKEN.sub(fill, template).strip()[:_MOST]
    return text if text.isascii() else encoded_words(map(str.encode, text), "utf-8")


def encoded_words(characters: Iterable[bytes], charset: str) -> str:
    """Return encoded-words, a blank between them; no character is cut in two (RFC 2047 section 5)."""
    words = [bytearray()]
    for character in characters:
        if len(words[-1]) + len(character) > _WORD_ROOM:
            words.append(bytearray())
        words[-1] += character
    return " ".join(f"=?{charset}?b?{b64encode(word).decode()}?=" for word in words)


def prefixed(body: bytes, prefix: str) -> str:
    """Return the value of a subject with the prefix in front; `body` is what stands after the colon.

    The subject's own text stays as it is, encoded-words and all, but for where its lines fold. Octets that
    are neither UTF-8 nor printable can't stand in an edit: they travel as encoded-words of the charset
    `unknown-8bit` (RFC 1428 section 3), which keeps them all.
    """
    octets = body.replace(b"\r\n", b"").strip(b" \t")
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        text = ""
    if octets and (not text or _CONTROL.search(text)):
        text = encoded_words((octets[n : n + 1] for n in range(len(octets))), "unknown-8bit")
    if not prefix.isascii():
        # A blank between two encoded-words is not shown (RFC 2047 section 6.2), so it goes inside.
        shown = f"{prefix} " if text.startswith("=?") else prefix
        prefix = encoded_words(map(str.encode, shown), "utf-8")
    return f"{prefix} {text}" if text else prefix


def is_marked(field: HeaderField, prefix: str) -> bool:
    """Whether the subject begins with the prefix, alone or after reply marks and the tags of lists.

    Further inside it doesn't count: a sender could put it where nobody looks.
    """
    try:
        text = field.text.lstrip().casefold()
    except MessageError:  # encoded-words that can't be decoded, which no reader could see the prefix in
        return False
    wanted = prefix.casefold()
    position = 0
    while not text.startswith(wanted, position):
        mark = _MARK.match(text, position)
        if mark is None:
            return False
        position = mark.end()
    return True
