"""The envelope: who sent it, who shall get it, and the options that travel with both (RFC 5321, 3461, 6531)."""

from dataclasses import dataclass

from relayproxy.model.address import NULL_SENDER, Address


@dataclass(frozen=True, slots=True)
class Recipient:
    """One RCPT: `notify` is the upper-cased NOTIFY list (RFC 3461 section 4.1) or empty, `orcpt` as written."""

    address: Address
    notify: tuple[str, ...] = ()
    orcpt: str = ""


@dataclass(frozen=True, slots=True)
class Envelope:
    """MAIL and its RCPTs.

    `body` is "", "7BIT" or "8BITMIME"; `ret` "", "FULL" or "HDRS"; `envid` as written (xtext); `size` the
    declared octets or 0; `auth` the AUTH= parameter of RFC 4954 section 5. `route` is the name of the route that a plugin
    chose ("": the routing table says), `tls_onward` says that a plugin wants it sent on over TLS only,
    `tls_optional` that its sender wants it sent on even where the recipients' domain insists on TLS (RFC 8689 section 5).
    `tenant` and `campaign` are whose mail it is and what it belongs to, as a plugin has found ("": it has not).
    """

    sender: Address = NULL_SENDER
    recipients: tuple[Recipient, ...] = ()
    body: str = ""
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    requiretls: bool = False
    size: int = 0
    auth: str = ""
    route: str = ""
    tls_onward: bool = False
    tenant: str = ""
    campaign: str = ""
    tls_optional: bool = False

    def to(self, recipients: tuple[Recipient, ...]) -> "Envelope":
        """Return the envelope with these recipients in place of its own."""
        return Envelope(
            self.sender,
            recipients,
            self.body,
            self.smtputf8,
            self.ret,
            self.envid,
            self.requiretls,
            self.size,
            self.auth,
            self.route,
            self.tls_onward,
            self.tenant,
            self.campaign,
            self.tls_optional,
        )
