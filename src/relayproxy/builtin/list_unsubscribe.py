"""list_unsubscribe: the two header fields by which bulk mail offers to unsubscribe with one click (RFC 8058).

The address of the web page holds a signed token that says who unsubscribes from what. Must not know how a token is made.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from relayproxy.api import (
    AddHeader,
    App,
    Direction,
    Edits,
    Mail,
    Message,
    Plugin,
    SecretRef,
    Settings,
    hook,
)
from relayproxy.builtin._address_map import AddressText
from relayproxy.builtin._keys import signing_keys
from relayproxy.mailauth.bulk_rules import is_bulk
from relayproxy.mailauth.dkim_impact import broken_by_fields
from relayproxy.mailauth.from_header import read_author
from relayproxy.mailauth.unsubscribe_token import make_token

_LONGEST = 900  # characters of a value: a line may have 998 octets, and a URL can't be folded
_FIELDS = ("List-Unsubscribe", "List-Unsubscribe-Post")
_URL = re.compile(r"https://[A-Za-z0-9.-]+(?::[0-9]+)?/[!#-;=?-~]*\Z")
_LIST_ID = re.compile(r"<([!-;=?-~]{1,255})>\s*\Z")


def _url(text: str) -> str:
    if not _URL.match(text) or "," in text:
        raise ValueError(
            "write a URL that begins with https://, in ASCII, without blanks, brackets and commas"
        )
    if text.count("{token}") != 1 or text.replace("{token}", "").count("{"):
        raise ValueError("write {token} once, where the token goes")
    return text


class ListUnsubscribeSettings(Settings):
    """Where one unsubscribes, and which mail offers it."""

    url: Annotated[str, AfterValidator(_url)]
    """The web page, with `{token}` in it: it takes a POST with the body `List-Unsubscribe=One-Click`."""
    mailto: AddressText | None = None
    """An address that takes mail instead, for readers who can't do the other; the token is its subject."""
    secrets: tuple[SecretRef, ...] = Field(min_length=1)
    """What tokens are signed with, 16 characters or more each. The first signs; the page has to know all of them."""
    mail: Literal["bulk", "all"] = "bulk"
    """Which mail: what says that it is bulk, by List-Id, Feedback-ID or Precedence, or all."""
    signed: Literal["skip", "break"] = "skip"
    """What is done with a message whose signature covers the lack of these fields: left as it is, or broken."""


class ListUnsubscribe(Plugin[ListUnsubscribeSettings]):
    """Adds the fields before signers sign them."""

    name = "list_unsubscribe"
    settings = ListUnsubscribeSettings
    directions = frozenset({Direction.OUTBOUND})

    @hook
    def startup(self, app: App) -> None:
        """Read the secrets. Raises SecretError."""
        self._clock = app.clock
        self._key = signing_keys(self.options.secrets)[0]

    @hook
    def before_forward(self, mail: Mail) -> Edits:
        """Add the fields, and note as "list_unsubscribe" whether, or why not."""
        message = mail.message
        if self.options.mail == "bulk" and not is_bulk(message):
            return None
        broken = broken_by_fields(message, _FIELDS)
        if why := self._obstacle(mail, broken):
            mail.note("list_unsubscribe", "none", reason=why)
            return None
        token = make_token(
            self._key, list_of(message), str(mail.envelope.recipients[0].address), self._clock.time()
        )
        value = f"<{self.options.url.replace('{token}', token)}>"
        if self.options.mailto is not None:
            value += f", <mailto:{self.options.mailto}?subject={token}>"
        if max(map(len, value.split())) > _LONGEST:
            mail.note("list_unsubscribe", "none", reason="the field would be too long")
            return None
        if broken:
            self.log.warning("%s: the fields break the signature of %s", mail.id, ", ".join(broken))
        props = {"broken": " ".join(broken)} if broken else {}
        mail.note("list_unsubscribe", "pass", score=0.0, reason="", **props)
        return [AddHeader(_FIELDS[1], "List-Unsubscribe=One-Click"), AddHeader(_FIELDS[0], value)]

    def _obstacle(self, mail: Mail, broken: tuple[str, ...]) -> str:
        """Return why the message stays as it is, or ""."""
        if any(mail.message.header(name) is not None for name in _FIELDS):
            return "it has such a field already"
        if len(mail.envelope.recipients) != 1:
            return "it has several recipients, and a token is for one"
        if broken and self.options.signed == "skip":
            return f"it would break the signature of {', '.join(broken)}"
        return ""


def list_of(message: Message) -> str:
    """Return what one unsubscribes from: the List-Id (RFC 2919), or the domain in From."""
    found = _LIST_ID.search(message.header("List-Id") or "")
    return found[1].lower() if found else read_author(message).domain
