"""Whose mail a message is, and which campaign it belongs to: read from the login, the envelope or the header.

All plugins that know tenants ask here, so that a bounce lands in the scope that RCPT looks at. What the plugin `campaign`
has found counts where a plugin has no settings of its own.
"""

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator

from relayproxy.api import HeaderField, Mail, Message, Settings, printable

METHOD = "campaign"
"""The finding of the plugin `campaign`: its properties are `tenant` and `name`, and `header` where the header told."""

_LONGEST = 80
_HEADER = re.compile(r"header:[!-9;-~]{1,76}\Z")
_LIST_ID = re.compile(r"<([^<>]{1,255})>\s*\Z")
_TENANT = ("none", "login", "sender-domain")
_CAMPAIGN = ("none", "envid", "sender-detail")


def _one_of(text: str, words: Sequence[str]) -> str:
    if text in words or _HEADER.match(text):
        return text
    raise ValueError(f"{text!r} is none of {', '.join(words)}, and not header:NAME")


TenantFrom = Annotated[str, AfterValidator(lambda text: _one_of(text, _TENANT))]
CampaignFrom = Annotated[str, AfterValidator(lambda text: _one_of(text, _CAMPAIGN))]


class KeyedSettings(Settings):
    """Where tenant and campaign are read from."""

    tenant: TenantFrom = "none"
    """What tells tenants apart: `login`, `sender-domain` (of the envelope sender), or `header:NAME`, a header field.
    `none`: what the plugin `campaign` has found, if it is there."""
    campaign: CampaignFrom = "none"
    """What names the campaign: `envid`, the ENVID parameter of MAIL (RFC 3461), `sender-detail`, what follows `+` in the
    envelope sender, as in `news+spring@example.org`, or `header:NAME`, as `header:X-Campaign`. `none`: as with `tenant`."""


def keys_of(options: KeyedSettings, mail: Mail) -> tuple[str, str]:
    """Return tenant and campaign of a message in lower case, "" for what isn't known; at most 80 characters each."""
    found = mail.finding(METHOD)
    known = found.props if found is not None else {}
    return (
        _read(options.tenant, mail) or known.get("tenant", ""),
        _read(options.campaign, mail) or known.get("name", ""),
    )


def _read(source: str, mail: Mail) -> str:
    sender = mail.envelope.sender
    match source:
        case "login":
            text = mail.client.identity
        case "sender-domain":
            text = sender.ascii_domain
        case "envid":
            text = mail.envelope.envid
        case "sender-detail":
            text = sender.local.partition("+")[2]
        case _:
            text = _in_header(source.partition(":")[2], mail.message)
    return text.lower()[:_LONGEST]


def _in_header(name: str, message: Message) -> str:
    """Return what a field says, the first of several: the id of a List-Id (RFC 2919), else all of it, printable."""
    if not name:
        return ""
    field = next((one for one in message.fields if one.name.lower() == name.lower()), None)
    return _meant(field) if field is not None else ""


def _meant(field: HeaderField) -> str:
    text = " ".join(field.value.split())
    if field.name.lower() == "list-id" and (found := _LIST_ID.search(text)):
        text = found[1]
    return printable(text, _LONGEST)
