"""srs: senders that we can answer for when mail is forwarded, and the way back for the bounces (SRS).

A forwarded message whose envelope sender is somebody else's domain fails SPF where it arrives. Here the sender becomes
an address of ours that only we can make; a bounce to it is sent on to the original sender. Must not know the form of
such an address.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from relayproxy.api import (
    Address,
    App,
    Direction,
    Edits,
    Mail,
    Opinion,
    Plugin,
    Recipient,
    ReplaceRecipient,
    SecretRef,
    SetSender,
    Settings,
    domain_in,
    hook,
    reject,
    to_a_label,
)
from relayproxy.builtin._keys import signing_keys
from relayproxy.mailauth.srs import Srs, SrsFault

Domain = Annotated[str, AfterValidator(lambda text: to_a_label(text.strip()).rstrip("."))]


class SrsSettings(Settings):
    """Which senders are rewritten, into which domain, and with what."""

    domain: Domain
    """The domain of the rewritten addresses: one of ours (`relay.domains`), whose MX leads here and whose SPF names the
    servers that we send from."""
    secrets: tuple[SecretRef, ...] = Field(min_length=1)
    """What addresses are made with, 16 characters or more each. The first makes them, all of them verify: put a new one
    in front, and take the old one away after `days`."""
    days: int = Field(21, ge=1, le=365)
    """How long a rewritten address takes bounces."""
    rewrite: Literal["outbound", "all", "never"] = "outbound"
    """Whose senders are rewritten, unless they are of our own domains. `outbound`: those of clients that may relay, so
    of servers behind us that forward. `all`: those of strangers too, where it is relayproxy that forwards. `never`:
    only bounces to addresses made earlier are taken."""
    keep: frozenset[Domain] = frozenset()
    """Further sender domains that are never rewritten, because their SPF names us. `.example.org` stands for all names
    below it."""
    only_bounces: bool = True
    """Whether a rewritten address takes nothing but bounces: mail with the null sender."""


class SrsPlugin(Plugin[SrsSettings]):
    """Rewrites at MAIL, reads back at RCPT."""

    name = "srs"
    settings = SrsSettings
    after = ()

    @hook
    def startup(self, app: App) -> None:
        """Read the secrets. Raises SecretError, and ValueError for a domain that isn't ours."""
        self._clock = app.clock
        if not domain_in(self.options.domain, app.local_domains):
            raise ValueError(f"nobody may send bounces to {self.options.domain}: it is none of relay.domains")
        self._ours = app.local_domains | self.options.keep
        self._srs = Srs(self.options.domain, signing_keys(self.options.secrets), self.options.days)

    @hook
    def rcpt(self, mail: Mail, rcpt: Recipient) -> Opinion:
        """Refuse a rewritten address that was not made here, or too long ago, and what is no bounce."""
        try:
            original = self._srs.reverse(rcpt.address, self._clock.time())
        except SrsFault as fault:
            mail.note("srs", "fail", reason=str(fault), kind=fault.kind)
            return reject(f"No bounces to this address: {fault}", reason=f"srs: {fault.kind}")
        if original is None or not mail.envelope.sender or not self.options.only_bounces:
            return None
        mail.note("srs", "fail", reason="it takes only bounces", kind="no-bounce")
        return reject("This address takes only bounces (the null sender)", reason="srs: no bounce")

    @hook
    def rewrite_envelope(self, mail: Mail, rcpt: Recipient | None) -> Edits:
        """Rewrite the sender, or turn a rewritten recipient back into the original sender; note either as "srs"."""
        now = self._clock.time()
        if rcpt is None:
            return self._sender(mail, now)
        original = self._srs.reverse(rcpt.address, now)
        if original is None:
            # A plugin before us led a recipient of ours away, to a domain that isn't.
            led_away = mail.direction is Direction.INBOUND and self._is_strange(rcpt.address)
            return (
                self._sender(mail, now, forwarded=True)
                if led_away and self.options.rewrite != "never"
                else None
            )
        mail.note(
            "srs", "pass", reason="a bounce to a sender that was rewritten here", original=str(original)
        )
        return ReplaceRecipient(rcpt.address, original)

    def _sender(self, mail: Mail, now: float, *, forwarded: bool = False) -> Edits:
        sender = mail.envelope.sender
        if not (self._is_strange(sender) and (forwarded or self._may_be_forwarded(mail))):
            return None
        made = self._srs.forward(sender, now)
        if made is None:
            mail.note("srs", "none", reason="the rewritten sender would be too long, or is no host's")
            self.log.warning("%s: the sender %s can't be rewritten, and stays", mail.id, sender)
            return None
        mail.note("srs", "pass", reason="the sender was rewritten", original=str(sender))
        return SetSender(made)

    def _is_strange(self, sender: Address) -> bool:
        return bool(sender.domain) and not domain_in(sender.ascii_domain, self._ours)

    def _may_be_forwarded(self, mail: Mail) -> bool:
        """Whether mail is forwarded as far as MAIL can tell, before there are recipients."""
        rewrite = self.options.rewrite
        return rewrite == "all" or (rewrite == "outbound" and mail.direction is Direction.OUTBOUND)
