"""What the certificate of a next hop has to be, where DNS or a policy file says it: `tls: dane` and `tls: mta-sts`.

The strictest of what is found holds, and what can't be found out ends in no connection: neither a name server that is
silent nor a file that can't be had may weaken anything. Must not know SMTP.
"""

import asyncio
import importlib
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from relayproxy.api import Answer, Clock, Resolver
from relayproxy.core.log import Log
from relayproxy.mailauth.dane import Dane, Standing, find, mismatch
from relayproxy.mailauth.mta_sts import Held, PolicyFile, current_policy

FROM_DNS = frozenset({"dane", "mta-sts"})
"""The TLS policies that are looked up here."""

_AGAIN = 300.0  # seconds until a policy that could not be had is asked for again, where an earlier one holds
_SOON = 30.0  # the same where none does, and mail waits

GetPolicy = Callable[[str, Sequence[str]], Awaitable[PolicyFile]]
"""Fetches the policy file of a domain from the addresses of its mta-sts host."""


class PolicyError(Exception):
    """Nothing may be sent; the text says why."""


class DaneError(Exception):
    """The next hop shows a certificate that no TLSA record describes; the text says why."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What TLS to one host has to be.

    `verified`: a CA that is trusted has to vouch for the certificate and the host's name. `lenient`: should that fail, it
    is logged, and TLS without it will do (a policy in mode testing). `dane`: the TLSA records that the certificate has to
    match as well.
    """

    verified: bool
    lenient: bool = False
    dane: Dane | None = None


class TlsPolicies:
    """Looks up what is demanded, and remembers policies for as long as they hold.

    `get` fetches policy files; left out, over HTTPS.
    """

    def __init__(self, resolver: Resolver, *, clock: Clock, log: Log, get: GetPolicy | None = None) -> None:
        self._resolver = resolver
        self._clock = clock
        self._log = log
        self._fetch_file = get or _over_https
        self._held: dict[str, Held] = {}
        self._failed: dict[str, float] = {}
        self._lookups: dict[str, asyncio.Task[Held | None]] = {}

    async def demand(self, tls: str, host: str, port: int, domain: str) -> Demand:
        """Return what `tls` ("dane" or "mta-sts") asks of TLS to `host`. Raises PolicyError.

        `domain` is the one whose MTA-STS policy counts. The name of the host has to be trusted itself: configured, or
        from an MX record that DNSSEC or the policy vouches for.
        """
        if not host or _is_address(host):
            raise PolicyError(f"tls: {tls} needs the name of a host, and {host or 'a Unix socket'} is none")
        if tls == "dane":
            return Demand(verified=False, dane=await self._required_dane(host, port))
        held = await self._policy(domain)
        if held is None or held.policy.mode == "none":
            raise PolicyError(f"{domain} has no MTA-STS policy that holds")
        enforced = held.policy.mode == "enforce"
        if not held.policy.covers(host):
            problem = f"the MTA-STS policy of {domain} doesn't name the host {host}"
            if enforced:
                raise PolicyError(problem)
            self._log.warning("tls_policy_testing", domain=domain, host=host, problem=problem)
        # RFC 8461 section 2: where there are TLSA records too, the policy doesn't stand in for them.
        dane = await find(host, port, self._fetch)
        if dane.standing is Standing.UNKNOWN:
            raise PolicyError(dane.reason)
        records = dane if dane.standing is Standing.USABLE else None
        return Demand(verified=True, lenient=not enforced, dane=records)

    async def _required_dane(self, host: str, port: int) -> Dane:
        dane = await find(host, port, self._fetch)
        if dane.standing is Standing.USABLE:
            return dane
        reason = dane.reason
        if dane.standing is Standing.INSECURE and not await self.validates():
            reason += ", as no name server that validates is asked: see dns.servers"
        raise PolicyError(f"tls: dane: {reason}")

    async def validates(self) -> bool:
        """Whether the name servers that are asked validate: they vouch for the root, which is signed."""
        return (await self._resolver.query(".", "SOA")).secure

    def tested(self, host: str, problem: str) -> None:
        """Log what enforcing a policy in mode testing would have refused."""
        self._log.warning("tls_policy_testing", host=host, problem=problem)

    def check(self, demand: Demand, connection: object) -> None:
        """Compare the certificates of a connection (its ssl_object) with the TLSA records. Raises DaneError."""
        if demand.dane is not None:
            problem = mismatch(demand.dane, chain_of(connection), self._clock.time())
            if problem:
                raise DaneError(f"DANE: {problem}")

    # -- MTA-STS --------------------------------------------------------------------------------------------------

    async def _policy(self, domain: str) -> Held | None:
        """Return the policy that holds; those who want the same one at once share the look-up, and its time-outs don't end it."""
        task = self._lookups.get(domain)
        if task is None:
            task = asyncio.create_task(self._look_up(domain))
            self._lookups[domain] = task
            task.add_done_callback(lambda _: self._lookups.pop(domain, None))
        return await asyncio.shield(task)

    async def _look_up(self, domain: str) -> Held | None:
        held, now = self._held.get(domain), self._clock.time()
        if self._failed.get(domain, 0.0) > now:
            return held if held is not None and held.holds(now) else None
        found = await current_policy(domain, held, self._fetch, self._get, now)
        if found.problem:
            kept = found.held is not None
            self._failed[domain] = now + (_AGAIN if kept else _SOON)
            self._log.warning("mta_sts_problem", domain=domain, problem=found.problem, kept=kept)
        if found.held is None:
            self._held.pop(domain, None)
        else:
            self._held[domain] = found.held
        return found.held

    async def _get(self, domain: str) -> PolicyFile:
        host = f"mta-sts.{domain}"
        v4, v6 = await self._fetch([(host, "A"), (host, "AAAA")])
        if v4.failed and v6.failed:
            return PolicyFile(fault=f"DNS gave no answer for the address of {host}")
        return await self._fetch_file(domain, [str(one) for one in (*v4.records, *v6.records)])

    async def _fetch(self, questions: Sequence[tuple[str, str]]) -> list[Answer]:
        return await asyncio.gather(*(self._resolver.query(*question) for question in questions))


async def _over_https(domain: str, addresses: Sequence[str]) -> PolicyFile:
    module = await asyncio.to_thread(importlib.import_module, "relayproxy.delivery.sts_fetch")
    file: PolicyFile = await module.fetch_policy(domain, addresses)
    return file


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def chain_of(connection: object) -> list[bytes]:
    """Return the certificates that the other end shows (DER, its own first), whether or not anybody vouches for them."""
    assert isinstance(connection, ssl.SSLObject | ssl.SSLSocket)
    own = connection.getpeercert(binary_form=True)
    # Before Python 3.13 only the object below tells the others (they are wanted for usage 2 of TLSA).
    source = connection if hasattr(connection, "get_unverified_chain") else connection._sslobj  # type: ignore[union-attr]  # noqa: SLF001
    shown = source.get_unverified_chain() or ()
    chain = [one if isinstance(one, bytes) else ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in shown]
    return chain or ([own] if own else [])
