"""campaign: says whose mail a message is and which campaign it belongs to, for all that counts or shares by that.

The queue shares its turns out by it, the history and webhooks name it, suppression and bounces know it as a scope. Must not
know any of them.
"""

from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator

from relayproxy.api import (
    QUEUE,
    Direction,
    DropHeader,
    Edit,
    Edits,
    Mail,
    Mistake,
    Opinion,
    Plugin,
    Recipient,
    SetCampaign,
    Setup,
    hook,
)
from relayproxy.builtin._campaign import METHOD, KeyedSettings, keys_of


def _field(name: str) -> str:
    if not name or not all(33 <= ord(letter) <= 126 and letter != ":" for letter in name):
        raise ValueError(f"{name!r} is not the name of a header field")
    return name


class CampaignSettings(KeyedSettings):
    """Where tenant and campaign are read from, and what doesn't leave."""

    remove: tuple[Annotated[str, AfterValidator(_field)], ...] = ()
    """Header fields that are taken out before the message leaves, and before it is signed."""


class Campaign(Plugin[CampaignSettings]):
    """Notes both as the finding "campaign", and puts them into the envelope."""

    name = "campaign"
    settings = CampaignSettings
    after = ()
    directions = frozenset({Direction.OUTBOUND, Direction.INTERNAL})

    def check(self, setup: Setup) -> Iterator[Mistake]:  # noqa: ARG002  (the shape of Plugin.check)
        """Without either there is nothing to say."""
        if self.options.tenant == self.options.campaign == "none" and not self.options.remove:
            yield Mistake(
                "neither tenant nor campaign is read from anywhere", hint="tenant: login", warning=True
            )

    @hook
    def mail(self, mail: Mail) -> Opinion:
        """Note what login and envelope tell, which RCPT may want to know."""
        tenant, campaign = keys_of(self.options, mail)
        if tenant or campaign:
            mail.note(METHOD, "hit", tenant=tenant, name=campaign)
        return None

    @hook
    def rewrite_envelope(self, mail: Mail, rcpt: Recipient | None) -> Edits:
        """Put it into the envelope."""
        tenant, campaign = keys_of(self.options, mail)
        return SetCampaign(tenant, campaign) if rcpt is None and (tenant or campaign) else None

    @hook
    def message(self, mail: Mail) -> Opinion:
        """Note what the header tells, and that it was the header."""
        known = mail.envelope.tenant, mail.envelope.campaign
        tenant, campaign = keys_of(self.options, mail)
        if (tenant, campaign) != known:
            mail.note(METHOD, "hit", tenant=tenant, name=campaign, header="yes")
        return None

    @hook
    def before_forward(self, mail: Mail, route: str) -> Edits:
        """Take the fields out. The queue hears what the header tells; another next hop has no use for it."""
        edits: list[Edit] = [DropHeader(name) for name in self.options.remove]
        tenant, campaign = keys_of(self.options, mail)
        if route == QUEUE and (tenant, campaign) != (mail.envelope.tenant, mail.envelope.campaign):
            edits.append(SetCampaign(tenant, campaign))
        return edits
