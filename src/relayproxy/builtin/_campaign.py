"""Whose mail a message is, and which campaign it belongs to, as far as the envelope tells.

Both plugins that know tenants ask here, so that a bounce lands in the scope that RCPT looks at.
"""

from typing import Literal

from relayproxy.api import Mail, Settings

_LONGEST = 80


class KeyedSettings(Settings):
    """Where tenant and campaign are read from."""

    tenant: Literal["none", "login", "sender-domain"] = "none"
    """What tells tenants apart: the login, or the domain of the envelope sender."""
    campaign: Literal["none", "envid", "sender-detail"] = "none"
    """What names the campaign: the ENVID parameter of MAIL (RFC 3461), or what follows `+` in the envelope sender, as in
    `news+spring@example.org`."""


def keys_of(options: KeyedSettings, mail: Mail) -> tuple[str, str]:
    """Return tenant and campaign of a message in lower case, "" for what isn't known; at most 80 characters each."""
    sender = mail.envelope.sender
    tenant = {"login": mail.client.identity, "sender-domain": sender.ascii_domain}.get(options.tenant, "")
    campaign = {"envid": mail.envelope.envid, "sender-detail": sender.local.partition("+")[2]}.get(
        options.campaign, ""
    )
    return tenant.lower()[:_LONGEST], campaign.lower()[:_LONGEST]
