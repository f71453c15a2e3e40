"""Whether a sender is known well enough to be sent a bounce.

Must not know the store.
"""

from relayproxy.model.mail import Mail

_VOUCHERS = {"spf": "smtp.mailfrom", "dkim": "header.d", "dmarc": "header.from"}


def vouched(mail: Mail) -> bool:
    """Whether the sender is known well enough to be sent a bounce: authenticated, trusted, or verified so far.

    Verified is one whose domain passed SPF as MAIL FROM, or is that of a DKIM signature or of an author that passed
    DMARC, or is below or above it. That somebody vouches for another name (of HELO, of his own) says nothing of it.
    """
    client = mail.client
    if (client.trusted and not client.forwarded) or client.identity:
        return True
    domain = mail.envelope.sender.ascii_domain
    return any(
        finding.result == "pass"
        and finding.method in _VOUCHERS
        and _related(domain, finding.props.get(_VOUCHERS[finding.method], ""))
        for finding in mail.findings
    )


def _related(domain: str, name: str) -> bool:
    """Whether a domain is the one that is named (perhaps as an address), below it, or above it."""
    one, other = f".{domain.lower()}", f".{name.rpartition('@')[2].lower()}"
    return len(other) > 1 and len(one) > 1 and (one.endswith(other) or other.endswith(one))
