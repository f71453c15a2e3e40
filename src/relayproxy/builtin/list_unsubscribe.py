"""list_unsubscribe: the two header fields by which bulk mail offers to unsubscribe with one click (RFC 8058).

The address of the web page holds a signed token that says who unsubscribes from what; tokens that come back, on the page
or by mail, are read here. Must not know how a token is made, nor what becomes of who unsubscribes.
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
    Opinion,
    Plugin,
    SecretRef,
    Unsubscription,
    hook,
)
from relayproxy.builtin._address_map import AddressText
from relayproxy.builtin._campaign import KeyedSettings, keys_of
from relayproxy.builtin._keys import signing_keys
from relayproxy.mailauth.bulk_rules import is_bulk
from relayproxy.mailauth.dkim_impact import broken_by_fields
from relayproxy.mailauth.from_header import read_author
from relayproxy.mailauth.unsubscribe_token import TokenFault, make_token, read_token
from relayproxy.model.suppressed import key_of, widest_known

_LONGEST = 900  # characters of a value: a line may have 998 octets, and a URL can't be folded
_FIELDS = ("List-Unsubscribe", "List-Unsubscribe-Post")
_URL = re.compile(r"https://[A-Za-z0-9.-]+(?::[0-9]+)?/[!#-;=?-~]*\Z")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{8,900}\.[A-Za-z0-9_-]{22}")
_LIST_ID = re.compile(r"<([!-;=?-~]{1,255})>\s*\Z")


def _url(text: str) -> str:
    if not _URL.match(text) or "," in text:
        raise ValueError(
            "write a URL that begins with https://, in ASCII, without blanks, brackets and commas"
        )
    if text.count("{token}") != 1 or text.replace("{token}", "").count("{"):
        raise ValueError("write {token} once, where the token goes")
    return text


class ListUnsubscribeSettings(KeyedSettings):
    """Where one unsubscribes, and which mail offers it."""

    url: Annotated[str, AfterValidator(_url)]
    """The web page, with `{token}` in it: it takes a POST with the body `List-Unsubscribe=One-Click`.
    That of `unsubscribe`, or one of your own."""
    mailto: AddressText | None = None
    """An address that takes mail instead, for readers who can't do the other; the token is its subject. Mail to it
    that brings a good one unsubscribes, and goes on to the mailbox."""
    secrets: tuple[SecretRef, ...] = Field(min_length=1)
    """What tokens are signed with, 16 characters or more each. The first signs; the page has to know all of them."""
    mail: Literal["bulk", "all"] = "bulk"
    """Which mail: what says that it is bulk, by List-Id, Feedback-ID or Precedence, or all."""
    signed: Literal["skip", "break"] = "skip"
    """What is done with a message whose signature covers the lack of these fields: left as it is, or broken."""
    scope: Literal["global", "tenant", "campaign"] = "tenant"
    """Whose mail the recipient doesn't want any more; where the mail has none such, the next wider."""
    days: int = Field(730, ge=30, le=3650)
    """How long a token is good."""


class ListUnsubscribe(Plugin[ListUnsubscribeSettings]):
    """Adds the fields before signers sign them, and reads the tokens that come back."""

    name = "list_unsubscribe"
    settings = ListUnsubscribeSettings
    after = ()

    @hook
    def startup(self, app: App) -> None:
        """Read the secrets. Raises SecretError."""
        self._clock = app.clock
        self._unsubscribe = app.unsubscribe
        self._keys = signing_keys(self.options.secrets)

    @hook
    def before_forward(self, mail: Mail) -> Edits:
        """Add the fields, and note as "list_unsubscribe" whether, or why not."""
        message = mail.message
        if mail.direction is Direction.INBOUND:
            return None
        if self.options.mail == "bulk" and not is_bulk(message):
            return None
        broken = broken_by_fields(message, _FIELDS)
        if why := self._obstacle(mail, broken):
            mail.note("list_unsubscribe", "none", reason=why)
            return None
        token = make_token(
            self._keys[0],
            list_of(message),
            str(mail.envelope.recipients[0].address),
            self._clock.time(),
            widest_known(self.options.scope, *keys_of(self.options, mail)),
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

    @hook
    def read_token(self, token: str) -> Unsubscription | None:
        """Return what a token of ours says."""
        try:
            return read_token(token, self._keys, self._clock.time(), self.options.days)
        except TokenFault:
            return None

    @hook
    async def message(self, mail: Mail) -> Opinion:
        """Unsubscribe who sends a good token to `mailto`, and note it as "list_unsubscribe"; no opinion of the mail."""
        if self.options.mailto is None or self._unsubscribe is None:
            return None
        box = key_of(self.options.mailto)
        if all(key_of(str(recipient.address)) != box for recipient in mail.envelope.recipients):
            return None
        # An answer's "Re:" may stand before it.
        found = _TOKEN.search(mail.message.header("Subject") or "")
        wish = self.read_token(found[0]) if found else None
        if wish is None:
            mail.note("list_unsubscribe", "fail", reason="no token that is good")
            return None
        await self._unsubscribe(wish, mail.client.ip)
        mail.note("list_unsubscribe", "hit", reason="unsubscribed", list=wish.list_id, scope=wish.scope)
        return None

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
