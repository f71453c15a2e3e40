"""Deliver mail for one address to another: `info@` to the person who reads it this month.

    - moved_users:
        addresses: {info@example.com: ana@example.com, sales@example.com: luis@example.net}

The new address is not looked up again. The reply to RCPT is the next hop's own about the new address.
"""

from typing import Annotated

from pydantic import AfterValidator, Field

from relayproxy.api import Address, Edits, Plugin, Recipient, ReplaceRecipient, Settings, hook


def _full_address(text: str) -> str:
    local, _, domain = text.rpartition("@")
    if not local or not domain:
        raise ValueError(f"{text!r} is not an address")
    return text


FullAddress = Annotated[str, AfterValidator(_full_address)]


class MovedUsersSettings(Settings):
    """Who reads whose mail."""

    addresses: dict[FullAddress, FullAddress] = Field(min_length=1)
    """The address that mail is sent to, and the one that gets it; capitals don't matter."""


class MovedUsers(Plugin[MovedUsersSettings]):
    """Replace envelope recipients; the header of the message stays as it is."""

    name = "moved_users"
    settings = MovedUsersSettings

    def __init__(self, options: MovedUsersSettings) -> None:
        super().__init__(options)
        pairs = ((_address(old).key.lower(), _address(new)) for old, new in options.addresses.items())
        self._new = dict(pairs)

    @hook
    def rewrite_envelope(self, rcpt: Recipient | None) -> Edits:
        """Return the replacement of a listed recipient."""
        new = self._new.get(rcpt.address.key.lower()) if rcpt else None
        return ReplaceRecipient(rcpt.address, new) if rcpt and new else None


def _address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(local, domain)
