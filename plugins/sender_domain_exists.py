"""Refuse senders whose domain can't get an answer: it doesn't exist, or says that it takes no mail.

- sender_domain_exists
"""

import asyncio

from relayproxy.api import (
    App,
    Direction,
    DnsStatus,
    Mail,
    Opinion,
    Plugin,
    Settings,
    defer,
    hook,
    printable,
    reject,
)


class SenderDomainExists(Plugin[Settings]):
    """Ask for MX, then for addresses (RFC 5321 section 5.1)."""

    name = "sender_domain_exists"
    after = ()
    directions = frozenset({Direction.INBOUND})

    @hook
    def startup(self, app: App) -> None:
        """Keep the resolver, which caches and has its own time-outs."""
        self._resolver = app.resolver

    @hook
    async def mail(self, mail: Mail) -> Opinion:
        """Judge the domain of the envelope sender; a bounce has none."""
        sender = mail.envelope.sender
        domain = sender.ascii_domain
        if not domain or sender.is_literal:
            return None
        shown = printable(domain, 255)
        answer = await self._resolver.query(domain, "MX")
        if answer.status is DnsStatus.NODATA:
            by_type = await asyncio.gather(*(self._resolver.query(domain, t) for t in ("A", "AAAA")))
            answer = next((a for a in by_type if a.records), next((a for a in by_type if a.failed), answer))
        elif any(name in {"", "."} for _, name in answer.records):
            # A null MX (RFC 7505 section 4.2).
            return reject(
                f"The sender's domain {shown} takes no mail, so nobody could answer", status="5.7.27"
            )
        if answer.failed:
            return defer(
                f"The sender's domain {shown} can't be looked up now, try again later", status="4.4.3"
            )
        if not answer.records:
            return reject(f"The sender's domain {shown} does not exist", status="5.1.8")
        return None
