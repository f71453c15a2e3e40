"""The records that a domain should publish for what it sends and takes, each with the reason why.

A starter: what is published already is not looked at. Must not know where the facts come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from relayproxy.mailauth.audit.report import Record
from relayproxy.mailauth.dkim_keys import SigningKey

_POLICY_AGE = 604_800  # a week: as long as mode is testing, a mistake should not be remembered for longer


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a domain's mail.

    `hostname` is what EHLO says, `addresses` send, `keys` sign (each with the name of its record), `hosts` take the
    domain's mail; `sts_id` is the id of its MTA-STS policy, another one whenever the policy changes.
    """

    domain: str
    hostname: str
    addresses: tuple[str, ...] = ()
    keys: tuple[tuple[str, SigningKey], ...] = ()
    hosts: tuple[str, ...] = ()
    sts_id: str = "1"


def spf_value(facts: Facts) -> str:
    """Return an SPF record that lets the sending addresses pass; without any, the host by its name."""
    terms = [f"ip{ip_address(ip).version}:{ip}" for ip in facts.addresses] or [f"a:{facts.hostname}"]
    return f"v=spf1 {' '.join(terms)} ~all"


def records_for(facts: Facts) -> list[Record]:
    """Return all records; those of other zones (the reverse names) last."""
    domain = facts.domain
    return [
        *_mx(facts),
        Record(domain, spf_value(facts), why="SPF: these send mail of the domain; add others that do"),
        *_helo(facts),
        *(
            Record(name, key.record(), why=f"DKIM: the {key.public.kind} key that dkim_sign signs with")
            for name, key in facts.keys
        ),
        Record(
            f"_dmarc.{domain}",
            f"v=DMARC1; p=none; rua=mailto:dmarc-reports@{domain}",
            why="DMARC: reports only; when they show no mail of yours failing, p=quarantine, then p=reject",
        ),
        Record(
            f"_smtp._tls.{domain}",
            f"v=TLSRPTv1; rua=mailto:tls-reports@{domain}",
            why="TLS-RPT: who failed to reach your MX over TLS, and why",
        ),
        *_sts(facts),
        *_reverse(facts),
    ]


def policy_text(hosts: Sequence[str]) -> str:
    """Return an MTA-STS policy to begin with, for https://mta-sts.DOMAIN/.well-known/mta-sts.txt (RFC 8461)."""
    lines = ["version: STSv1", "mode: testing", *(f"mx: {host}" for host in hosts), f"max_age: {_POLICY_AGE}"]
    return "".join(f"{line}\r\n" for line in lines)


def _mx(facts: Facts) -> list[Record]:
    why = "MX: who takes the domain's mail"
    return [Record(facts.domain, f"{10 * n} {host}.", "MX", why) for n, host in enumerate(facts.hosts, 1)]


def _helo(facts: Facts) -> list[Record]:
    if facts.hostname == facts.domain or "." not in facts.hostname:
        return []
    terms = [f"ip{ip_address(ip).version}:{ip}" for ip in facts.addresses] or ["a"]
    why = "SPF of the name in EHLO, which receivers check for bounces (RFC 7208 section 2.3)"
    return [Record(facts.hostname, f"v=spf1 {' '.join(terms)} -all", why=why)]


def _sts(facts: Facts) -> list[Record]:
    if not facts.hosts:
        return []
    why = "MTA-STS: there is a policy at https://mta-sts.{}/.well-known/mta-sts.txt; a new id for each change"
    return [Record(f"_mta-sts.{facts.domain}", f"v=STSv1; id={facts.sts_id}", why=why.format(facts.domain))]


def _reverse(facts: Facts) -> list[Record]:
    if "." not in facts.hostname:
        return []
    return [
        Record(
            ip_address(ip).reverse_pointer,
            f"{facts.hostname}.",
            "PTR",
            f"reverse name of {ip}, in the zone of whoever owns the address; {facts.hostname} must lead back to it",
        )
        for ip in facts.addresses
    ]
