"""A limit to what one message may ask of DNS (RFC 7208 section 11.1: mail must not aim us at a third party).

Must not know what a message is: whoever begins an account says where one starts.
"""

import logging
from contextvars import ContextVar
from typing import Protocol

from relayproxy.api import Answer, DnsStatus, Resolver

log = logging.getLogger(__name__)

_account: ContextVar[list[int] | None] = ContextVar("relayproxy_dns_account", default=None)


class Remembering(Resolver, Protocol):
    """A resolver that can say what it knows."""

    def peek(self, name: str, rdtype: str) -> Answer | None:
        """Return the answer if it is in the cache, without waiting for anything."""
        ...


class Budgeted:
    """What plugins get as `app.resolver`: the process's resolver with `limit` questions for each message.

    `begin` opens an account in the current context. All tasks made from there on draw on it, so a plugin needs
    to do nothing and can't forget anything. Answers from the cache are free. When the account is used up every
    further question is answered SERVFAIL, a temporary error to whoever asked. Outside of any account nothing is
    counted.
    """

    def __init__(self, resolver: Remembering, limit: int = 200) -> None:
        self._resolver = resolver
        self._limit = limit

    def begin(self) -> None:
        """Open a new account for the message that this context is about."""
        _account.set([self._limit])

    def peek(self, name: str, rdtype: str) -> Answer | None:
        """Return the answer if it is in the cache, without waiting for anything."""
        return self._resolver.peek(name, rdtype)

    async def query(self, name: str, rdtype: str) -> Answer:
        """Look up `name` for records of `rdtype`."""
        known = self._resolver.peek(name, rdtype)
        if known is not None:
            return known
        account = _account.get()
        if account is not None:
            if not account[0]:
                log.warning("this message has used up its DNS questions; %s %s was not asked", name, rdtype)
                return Answer(DnsStatus.SERVFAIL)
            account[0] -= 1
        return await self._resolver.query(name, rdtype)
