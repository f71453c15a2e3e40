"""The history, and the reports that are made from it.

Must not know whether the database is there.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema

from relayproxy.config.base import Model, quoted, refusal
from relayproxy.config.databases import database_url
from relayproxy.config.operations import Postgres
from relayproxy.config.quantities import Duration
from relayproxy.config.values import HostName
from relayproxy.model.address import Address, to_a_label


class History(Postgres):
    """What happened to each message, kept for reports and searches. Without this key nothing is kept."""

    url: Annotated[str, AfterValidator(database_url("sqlite:///var/lib/relayproxy/history.db"))]
    """`sqlite:///path` (absolute) on one machine, or `postgresql://host:port/database` for several. Addresses are kept in
    full, whatever `log.privacy` says."""
    retention: Duration = 30 * 86_400.0
    """How long events are kept."""
    queue: int = Field(default=10_000, ge=100, le=1_000_000)
    """Events that may wait to be written, for each worker; more are dropped and counted."""


def _mailbox(value: Any) -> str:
    text = value if isinstance(value, str) else ""
    local, at, domain = text.strip().rpartition("@")
    plain = local.isascii() and local.isprintable() and not set(local) & set(' "(),:;<>@[\\]')
    if not (at and local and plain and "." in domain and to_a_label(domain).isascii()):
        raise refusal("RP210", f"{quoted(value)} is not an e-mail address", "write reports@example.com")
    return f"{local}@{to_a_label(domain)}"


Mailbox = Annotated[str, PlainValidator(_mailbox), WithJsonSchema({"type": "string", "format": "email"})]


class _Reports(Model):
    """Who reports, and from where."""

    organization: str = Field(min_length=1, max_length=200)
    """The name of your organisation, as it stands in the reports."""
    contact: Mailbox
    """Whom a reader of the reports may ask."""
    from_address: Mailbox
    """The author of the mails. Its domain should have a DKIM key here, so that they pass DMARC."""
    sender: Mailbox | None = None
    """The envelope sender. Left out: the null sender, so that nothing comes back."""
    submitter: HostName | None = None
    """The domain that reports, in file names and subjects. Left out: that of `from_address`."""
    exclude_domains: tuple[str, ...] = ()
    """Policy domains that get no reports."""

    @property
    def submitting_domain(self) -> str:
        """The domain that reports."""
        return self.submitter or self.from_address.rpartition("@")[2]

    @property
    def envelope_sender(self) -> Address:
        """The envelope sender as a value."""
        local, _, domain = (self.sender or "").rpartition("@")
        return Address(local, domain)


class DmarcReports(_Reports):
    """DMARC aggregate reports to the owners of the domains that mail came from (RFC 9990). Needs `history`."""

    extra_contact: str = Field(default="", max_length=500)
    """Further contact details, such as the address of a web page."""
    ignore_recipients: tuple[Mailbox, ...] = ()
    """Mail to these addresses only is not reported on: where you receive reports of others, for example."""


class TlsReports(_Reports):
    """Reports on TLS to the owners of the domains that mail went to (RFC 8460). Needs `history`."""

    post_to_private: bool = False
    """Whether a report may be posted (`rua=https:`) to a host with a private address, such as one of your own network."""
