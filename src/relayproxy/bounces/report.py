"""What a bounce, a complaint or an automatic answer says, as values.

Must not know how they were written down.
"""

from dataclasses import dataclass
from enum import StrEnum

from relayproxy.bounces.mime import split
from relayproxy.model.message import HeaderField

LONGEST_TEXT = 1000
"""Characters of a diagnosis that are kept."""


class Kind(StrEnum):
    """How a report came: a DSN (RFC 3464), a text for people, a complaint (RFC 5965), an automatic answer."""

    DSN = "dsn"
    TEXT = "text"
    COMPLAINT = "complaint"
    AUTO_REPLY = "auto-reply"


@dataclass(frozen=True, slots=True)
class Fate:
    """What is said of one recipient.

    `address` is the one that we sent to, "" if none is named. `action` is a word of RFC 3464 section 2.3.3 (failed,
    delayed, delivered, relayed, expanded), `status` an enhanced code or "", `diagnosis` the remote server's words or
    those for people, `remote` the server that gave them.
    """

    address: str
    action: str = "failed"
    status: str = ""
    diagnosis: str = ""
    remote: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """One report. `reporter` is the server or person that wrote it, `envelope_id` our ENVID, `feedback` the type of a complaint.

    `returned` holds the header block of the message it is about, as far as it came back.
    """

    kind: Kind
    fates: tuple[Fate, ...] = ()
    reporter: str = ""
    envelope_id: str = ""
    feedback: str = ""
    returned: bytes = b""

    @property
    def returned_fields(self) -> tuple[HeaderField, ...]:
        """The header fields of the message that the report is about."""
        return split(self.returned)[0] if self.returned else ()

    @property
    def failed(self) -> tuple[Fate, ...]:
        """What is said of those who did not get the message and won't."""
        return tuple(fate for fate in self.fates if fate.action == "failed")
