"""Send a copy of matching mail to an archive, as one more envelope recipient that no header names.

    - archive_copy:
        to: archive@example.com
        senders: [example.com]
        recipients: [board@example.com]

Without senders and recipients, all mail is copied. The archive must be behind the same upstream.
"""

from typing import Annotated

from pydantic import AfterValidator

from relayproxy.api import AddRecipient, Address, Edits, Mail, Plugin, Recipient, Settings, hook


def _full_address(text: str) -> str:
    local, _, domain = text.rpartition("@")
    if not local or not domain:
        raise ValueError(f"{text!r} is not an address")
    return text


class ArchiveCopySettings(Settings):
    """Which mail, and where to."""

    to: Annotated[str, AfterValidator(_full_address)]
    """The address of the archive."""
    senders: tuple[str, ...] = ()
    """Addresses or domains; mail from any of them is copied."""
    recipients: tuple[str, ...] = ()
    """Addresses or domains; mail to any of them is copied."""


class ArchiveCopy(Plugin[ArchiveCopySettings]):
    """Add the recipient beside the first one that matches."""

    name = "archive_copy"
    settings = ArchiveCopySettings

    @hook
    def rewrite_envelope(self, mail: Mail, rcpt: Recipient | None) -> Edits:
        """Return the copy's recipient, once for each mail and never for the archive's own."""
        local, _, domain = self.options.to.rpartition("@")
        archive = Recipient(Address(local, domain), notify=("NEVER",))  # its trouble is not the sender's
        if rcpt is None or archive.address.key in {r.address.key for r in (rcpt, *mail.envelope.recipients)}:
            return None
        senders, recipients = self.options.senders, self.options.recipients
        everything = not senders and not recipients
        if everything or _listed(mail.envelope.sender, senders) or _listed(rcpt.address, recipients):
            return AddRecipient(archive)
        return None


def _listed(address: Address, names: tuple[str, ...]) -> bool:
    forms = {str(address).lower(), address.key.lower(), address.ascii_domain}
    return any(name.lower() in forms for name in names)
