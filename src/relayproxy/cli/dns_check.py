"""All audits of a domain, side by side, each within its time.

An audit that stumbles or takes too long is a line in the report, whatever is published. Must not know how lines are
shown.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from relayproxy.mailauth.audit.dkim import audit_keys, audit_selectors
from relayproxy.mailauth.audit.dmarc import audit_dmarc
from relayproxy.mailauth.audit.mx import audit_mx, audit_ptr, mx_hosts
from relayproxy.mailauth.audit.records import Facts, spf_value
from relayproxy.mailauth.audit.report import Line
from relayproxy.mailauth.audit.spf import audit_spf
from relayproxy.mailauth.audit.transport import audit_policy, audit_tls_reports, sts_record
from relayproxy.mailauth.lookup import Fetch
from relayproxy.mailauth.mta_sts import PolicyFile

ORDER = ("spf", "dkim", "dmarc", "mx", "mta-sts", "tls-rpt", "ptr")
"""The subjects as they are shown."""

_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Probes:
    """What reaches beyond DNS: `policy(domain, addresses)` fetches a file, `mx(host)` connects to one, or None."""

    policy: Callable[[str, Sequence[str]], Awaitable[PolicyFile]]
    mx: Callable[[str], Awaitable[Line]] | None = None


async def examine(
    facts: Sequence[Facts],
    fetch: Fetch,
    probes: Probes,
    *,
    selectors: Sequence[str] = (),
    troubles: Sequence[Line] = (),
    patience: float = 30.0,
) -> list[tuple[str, list[Line]]]:
    """Return the report of each domain; `patience` in seconds bounds each audit. Never raises for what is published.

    `selectors` are those of keys that others hold, `troubles` what kept keys from being read.
    """
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(domain: Facts) -> tuple[str, list[Line]]:
        async with room:
            return domain.domain, await _domain(domain, fetch, probes, selectors, troubles, patience)

    return await asyncio.gather(*map(one, facts))


async def _domain(
    facts: Facts,
    fetch: Fetch,
    probes: Probes,
    selectors: Sequence[str],
    troubles: Sequence[Line],
    patience: float,
) -> list[Line]:
    domain = facts.domain
    audits: list[tuple[str, Coroutine[Any, Any, Iterable[Line]]]] = [
        ("spf", audit_spf(domain, fetch, addresses=facts.addresses, suggestion=spf_value(facts))),
        ("dkim", _dkim(facts, fetch, selectors, troubles)),
        ("dmarc", audit_dmarc(domain, fetch)),
        ("mx", audit_mx(domain, fetch)),
        ("mx", _connections(domain, fetch, probes)),
        ("mta-sts", _sts(domain, fetch, probes)),
        ("tls-rpt", _one(audit_tls_reports(domain, fetch))),
        ("ptr", _reverse(facts, fetch)),
    ]
    found = await asyncio.gather(*(_bounded(check, domain, work, patience) for check, work in audits))
    return sorted((line for lines in found for line in lines), key=lambda line: ORDER.index(line.check))


async def _bounded(
    check: str, domain: str, work: Coroutine[Any, Any, Iterable[Line]], patience: float
) -> Sequence[Line]:
    try:
        async with asyncio.timeout(patience):
            return list(await work)
    except TimeoutError:
        return [Line(check, domain, "error", f"there was no result within {patience:g} s")]
    except Exception as error:  # noqa: BLE001  (the fence: odd records of strangers must not end the report)
        return [Line(check, domain, "error", f"this could not be examined: {type(error).__name__}")]


async def _one(work: Awaitable[Line]) -> list[Line]:
    return [await work]


async def _dkim(facts: Facts, fetch: Fetch, selectors: Sequence[str], troubles: Sequence[Line]) -> list[Line]:
    zone = f"._domainkey.{facts.domain}"
    lines = [
        *(one for one in troubles if not one.name or one.name.endswith(zone)),
        *await audit_keys(facts.keys, fetch),
        *await audit_selectors(facts.domain, selectors, fetch),
    ]
    if lines:
        return lines
    text = "no key of it is known here: name the configuration with -C, or selectors with --selector"
    return [Line("dkim", facts.domain, "warning", text)]


async def _connections(domain: str, fetch: Fetch, probes: Probes) -> Iterable[Line]:
    if probes.mx is None:
        return ()
    return await asyncio.gather(*map(probes.mx, await mx_hosts(domain, fetch)))


async def _sts(domain: str, fetch: Fetch, probes: Probes) -> list[Line]:
    (mx,) = await fetch([(domain, "MX")])
    if mx.records and not any(host for _, host in mx.records):
        return []
    state, line = await sts_record(domain, fetch)
    if state in ("none", "unknown"):
        return [line]
    a, aaaa = await fetch([(f"mta-sts.{domain}", "A"), (f"mta-sts.{domain}", "AAAA")])
    addresses = [*a.records, *aaaa.records]
    if addresses or not (a.failed or aaaa.failed):
        file = await probes.policy(domain, addresses)
    else:
        file = PolicyFile(fault=f"DNS gave no answer for the address of mta-sts.{domain}")
    return [line, *audit_policy(domain, file, await mx_hosts(domain, fetch))]


async def _reverse(facts: Facts, fetch: Fetch) -> list[Line]:
    if facts.addresses:
        return await asyncio.gather(*(audit_ptr(ip, facts.hostname, fetch) for ip in facts.addresses))
    return [
        Line("ptr", facts.domain, "warning", "the addresses that send are not known: name them with --ip")
    ]
