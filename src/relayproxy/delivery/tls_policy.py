"""What the certificate of a next hop has to be, where DNS or a policy file says it: DANE and MTA-STS.

The strictest of what is found holds, and what can't be found out ends in no connection: neither a name server that is
silent nor a file that can't be had may weaken anything. Must not know SMTP.
"""

import ssl
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

from relayproxy.api import Clock, Resolver, SharedState, fetch_from
from relayproxy.core.log import Log
from relayproxy.delivery.demand import Demand, Wish
from relayproxy.delivery.ratchet import Ratchet
from relayproxy.delivery.sts_cache import GetPolicy, StsCache
from relayproxy.mailauth.dane import Dane, Standing, alias_of, find, mismatch
from relayproxy.mailauth.mta_sts import Held

FROM_DNS = frozenset({"dane", "mta-sts"})
"""The TLS policies that are looked up here."""


class PolicyError(Exception):
    """Nothing may be sent; the text says why, `result` in the words of RFC 8460 section 4.3 ("": no such failure)."""

    def __init__(self, problem: str, result: str = "", policy: str = "") -> None:
        super().__init__(problem)
        self.result = result
        self.policy = policy


class DaneError(Exception):
    """The next hop shows a certificate that no TLSA record describes; the text says why."""


class TlsPolicies:
    """Looks up what is demanded, and remembers what was learnt for as long as it holds, in `state` too.

    `get` fetches policy files; left out, over HTTPS.
    """

    def __init__(
        self,
        resolver: Resolver,
        *,
        clock: Clock,
        log: Log,
        get: GetPolicy | None = None,
        state: SharedState | None = None,
        ratchet: Ratchet | None = None,
    ) -> None:
        self._resolver = resolver
        self._fetch = fetch_from(resolver)
        self._clock = clock
        self._log = log
        self._sts = StsCache(resolver, clock=clock, log=log, get=get, state=state)
        self.ratchet = ratchet

    async def demand(self, tls: str, host: str, port: int, domain: str) -> Demand:
        """Return what `tls` ("dane" or "mta-sts") asks of TLS to `host`. Raises PolicyError.

        `domain` is the one whose MTA-STS policy counts. The name of the host has to be trusted itself: configured, or
        from an MX record that DNSSEC or the policy vouches for.
        """
        if not host or _is_address(host):
            raise PolicyError(f"tls: {tls} needs the name of a host, and {host or 'a Unix socket'} is none")
        if tls == "dane":
            return Demand(dane=await self._required_dane(host, port), policy="tlsa")
        held = await self._sts.find(domain)
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
        return Demand(
            verified=True,
            lenient=not enforced,
            dane=records,
            policy="tlsa" if records else "sts",
            sts=None if records else held.policy,
        )

    async def _required_dane(self, host: str, port: int) -> Dane:
        dane = await find(host, port, self._fetch)
        if dane.standing is Standing.USABLE:
            return dane
        raise await self._without_dane(dane)

    async def _without_dane(self, dane: Dane) -> PolicyError:
        reason = dane.reason
        if dane.standing is Standing.INSECURE and await self.validates() is False:
            reason += ", as no name server that validates is asked: see dns.servers"
        return PolicyError(f"tls: dane: {reason}", "dane-required", "tlsa")

    # -- by MX ----------------------------------------------------------------------------------------------------

    async def sts(self, wish: Wish, domain: str) -> Held | None:
        """Return the MTA-STS policy of a recipients' domain that is to be heeded. Raises PolicyError."""
        if "mta-sts" not in wish.consults:
            return None
        held = await self._sts.find(domain)
        if held is None or held.policy.mode == "none":
            if wish.tls == "mta-sts":
                raise PolicyError(f"{domain} has no MTA-STS policy that holds")
            return None
        return held

    def sts_problem(self, domain: str) -> tuple[str, str]:
        """Return why a policy could not be had when it was last looked for (result of RFC 8460, text); empty for nothing."""
        return self._sts.problem(domain)

    async def for_host(
        self,
        wish: Wish,
        host: str,
        port: int,
        *,
        domain: str,
        trusted: bool,
        held: Held | None,
        noted: Callable[[PolicyError], None] = lambda _: None,
    ) -> Demand:
        """Return what TLS to one mail server of `domain` has to be. Raises PolicyError: it is put off.

        `trusted` says that DNSSEC vouches for the name of the host, or that it is the domain itself; `held` is the domain's
        policy, and `noted` hears of what is wrong and yet no obstacle. Of all that is asked the strictest counts, but for one
        thing: where TLSA records can be used, they take the place of the policy (RFC 8461 section 2), so a certificate of no
        CA will do.
        """
        dane, policy, unusable = None, "", False
        if "dane" in wish.consults:
            found = await self._dane_of(host, port, domain, trusted=trusted)
            if found.standing is Standing.USABLE:
                dane, policy = await self._named(found, domain), "tlsa"
            elif wish.tls == "dane":
                raise await self._without_dane(found)
            # RFC 7672 section 2.2: records that nobody can use still say that there is TLS.
            unusable = found.standing is Standing.UNUSABLE
            if unusable:
                noted(PolicyError(found.reason, "tlsa-invalid", "tlsa"))
        insisted = wish.tls != "opportunistic" or wish.encrypted or wish.requiretls
        encrypted = insisted or unusable or dane is not None
        verified = wish.tls == "verify" or (wish.requiretls and dane is None)
        lenient = False
        if held is not None and dane is None:
            policy, enforced = "sts", held.policy.mode == "enforce"
            if not held.policy.covers(host):
                problem = f"the MTA-STS policy of {domain} doesn't name the host {host}"
                error = PolicyError(problem, "validation-failure", "sts")
                if enforced:
                    raise error
                noted(error)
                self._log.warning("tls_policy_testing", domain=domain, host=host, problem=problem)
            lenient = not enforced and not verified
            encrypted, verified = encrypted or enforced, True
        sts = held.policy if held is not None and policy == "sts" else None
        return Demand(encrypted, verified, lenient, dane, policy, sts)

    async def _named(self, found: Dane, domain: str) -> Dane:
        """Add what the certificate may have for a name too: the one that mail is addressed to, and what that stands for.

        RFC 7672 section 3.2.2. What needs no name is left as it is, so that connections serve all domains of a host.
        """
        if not found.asks_for_a_name:
            return found
        names = (*found.names, domain, await alias_of(domain, self._fetch) or domain)
        return replace(found, names=tuple(dict.fromkeys(names)))

    async def _dane_of(self, host: str, port: int, domain: str, *, trusted: bool) -> Dane:
        if _is_address(host):
            return Dane(Standing.INSECURE, reason=f"{host} is an address and has no records")
        if not trusted:
            return Dane(Standing.INSECURE, reason=f"the MX records of {domain} are not secured by DNSSEC")
        found = await find(host, port, self._fetch)
        if found.standing is Standing.UNKNOWN:
            raise PolicyError(found.reason, "dnssec-invalid", "tlsa")
        return found

    async def validates(self) -> bool | None:
        """Whether the name servers that are asked validate: they vouch for the root, which is signed. None: no answer."""
        answer = await self._resolver.query(".", "SOA")
        return None if answer.failed else answer.secure

    def tested(self, host: str, problem: str) -> None:
        """Log what enforcing a policy in mode testing would have refused."""
        self._log.warning("tls_policy_testing", host=host, problem=problem)

    def check(self, demand: Demand, connection: object) -> None:
        """Compare the certificates of a connection (its ssl_object) with the TLSA records. Raises DaneError."""
        if demand.dane is not None:
            problem = mismatch(demand.dane, chain_of(connection), self._clock.time())
            if problem:
                raise DaneError(f"DANE: {problem}")


def _is_address(host: str) -> bool:
    try:
        ip_address(host.strip("[]").removeprefix("IPv6:"))
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
