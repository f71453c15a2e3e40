"""footer: a text at the end of outgoing messages, such as the disclaimer that a company has to send.

It goes into the text parts that a reader sees first, in their own character sets and encodings; all other octets stay
as they came. A message whose signature it would break stays as it is unless the admin says otherwise, and the finding
names who signed. Must not know how a part is written.
"""

import asyncio
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from relayproxy.api import Direction, Edits, Mail, Message, Plugin, ReplaceBody, Settings, hook
from relayproxy.builtin._address_map import DomainName
from relayproxy.builtin._append import Splice, appended, escaped
from relayproxy.mailauth.dkim_impact import broken_by_body
from relayproxy.mailauth.from_header import read_author
from relayproxy.model.encoded_words import in_charset
from relayproxy.model.mime import Part, read_tree
from relayproxy.model.mime_content import decoded_octets

_LARGE = 262_144  # octets of a message above which another thread does it
_ENCRYPTED = ("multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime")
_REPORTS = ("multipart/report",)
_INLINE_PGP = (b"-----BEGIN PGP SIGNED MESSAGE-----", b"-----BEGIN PGP MESSAGE-----")
_DEEPEST = 5  # containers in which a text is looked for


class Footer(Settings):
    """One text and whose mail gets it."""

    text: str = Field(min_length=1, max_length=16_384)
    """What is put at the end of plain text; lines end as in YAML."""
    html: str = Field("", max_length=65_536)
    """What is put at the end of HTML, as HTML; left out, it is made from `text`."""
    sender_domains: frozenset[DomainName] = frozenset()
    """The domains in From whose mail gets it; left out, all."""


class FooterSettings(Settings):
    """The texts, and what is done about signatures."""

    footers: tuple[Footer, ...] = Field(min_length=1)
    """The texts; the first one for the sender's domain is taken."""
    signed: Literal["skip", "break"] = "skip"
    """What is done with a message that is signed (DKIM or ARC by anyone before us, S/MIME, PGP) so that the footer
    would break it: left as it is, or broken."""
    repeat: bool = False
    """Whether a part that holds the text already gets it again, as replies do."""


class Skipped(Exception):  # noqa: N818  (it says why there is nothing to do)
    """The message stays as it is; the argument is the reason."""


class FooterPlugin(Plugin[FooterSettings]):
    """Changes the body before signers sign it."""

    name = "footer"
    settings = FooterSettings
    directions = frozenset({Direction.OUTBOUND})

    @hook
    async def before_forward(self, mail: Mail) -> Edits:
        """Put the text at the end; note as "footer" whether, or why not, and whose signatures break."""
        footer = self._chosen(mail.message)
        if footer is None:
            return None
        try:
            if mail.message.size > _LARGE:
                body, broken = await asyncio.to_thread(self._changed, mail.message, footer)
            else:
                body, broken = self._changed(mail.message, footer)
        except Skipped as skipped:
            mail.note("footer", "none", reason=str(skipped))
            return None
        if broken:
            self.log.warning("%s: the footer breaks the signature of %s", mail.id, ", ".join(broken))
            mail.note("footer", "pass", reason="signatures break", broken=" ".join(broken))
        else:
            mail.note("footer", "pass")
        return ReplaceBody(body)

    def _chosen(self, message: Message) -> Footer | None:
        domain = read_author(message).domain
        footers = self.options.footers
        return next((one for one in footers if not one.sender_domains or domain in one.sender_domains), None)

    def _changed(self, message: Message, footer: Footer) -> tuple[bytes, tuple[str, ...]]:
        """Return the new body, and whose signatures it breaks. Raises Skipped."""
        broken: list[str] = []
        tree = read_tree(message)
        if tree.unseen:
            raise Skipped("its structure can't be read")
        parts = list(self._texts(tree.root, broken))
        splices = [self._splice(message, part, footer, broken) for part in parts]
        wanted = [splice for splice in splices if splice is not None]
        if not wanted:
            raise Skipped("the text is there already" if parts else "it has no text")
        body = _spliced(message, wanted)
        broken.extend(broken_by_body(message, body))
        if broken and self.options.signed == "skip":
            raise Skipped(f"it would break the signature of {', '.join(broken)}")
        return body, tuple(broken)

    def _texts(self, part: Part, broken: list[str], depth: int = 0) -> Iterator[Part]:
        """Yield the text parts that a reader sees first; what is signed around them goes to `broken`."""
        said = part.described
        if part.type in _ENCRYPTED:
            raise Skipped("it is encrypted, or signed in one piece")
        if part.type in _REPORTS:
            raise Skipped("it is a report")
        if part.type == "multipart/signed":
            broken.append("the author (S/MIME or PGP)")
        if part.type in ("text/plain", "text/html"):
            if said.disposition != "attachment" and not said.names and not part.children:
                yield part
        elif part.type.startswith("multipart/") and part.children and depth < _DEEPEST:
            children = part.children if part.type == "multipart/alternative" else part.children[:1]
            for child in children:
                yield from self._texts(child, broken, depth + 1)

    def _splice(self, message: Message, part: Part, footer: Footer, broken: list[str]) -> Splice | None:
        """Return the change of one part, None if it has the text already. Raises Skipped."""
        html = part.type == "text/html"
        text = (footer.html or escaped(footer.text)) if html else footer.text
        content = decoded_octets(message, part)
        if any(mark in content for mark in _INLINE_PGP):
            if _INLINE_PGP[1] in content:
                raise Skipped("its text is encrypted")
            broken.append("the author (PGP in the text)")
        if not self.options.repeat and _squeezed(text) in _squeezed(
            in_charset(content, part.described.charset or "us-ascii")
        ):
            return None
        splice = appended(message, part, text.rstrip("\n"))
        if splice is None:
            raise Skipped(
                f"nothing can be added to text of the charset {part.described.charset or 'us-ascii'}"
            )
        return splice


def _squeezed(text: str) -> str:
    """Return what is left of a text when blanks and marks of quotation are taken out."""
    return "".join(text.replace(">", "").split())


def _spliced(message: Message, splices: list[Splice]) -> bytes:
    pieces: list[bytes] = []
    place = 0
    for splice in sorted(splices, key=lambda one: one.start):
        pieces += (message.body_part(place, splice.start), splice.octets)
        place = splice.stop
    pieces.append(message.body_part(place, message.body_size))
    return b"".join(pieces)
