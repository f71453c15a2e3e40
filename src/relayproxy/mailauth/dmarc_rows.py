"""What one message contributes to an aggregate report, from what the checks found (RFC 9990 section 3.1).

Reads findings as the spf, dkim_verify and dmarc plugins note them. Must not know a database, nor XML.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from relayproxy.mailauth.dmarc_record import POLICIES, DmarcRecord, parse_record
from relayproxy.mailauth.dmarc_report import Published, Row, Signature, SpfCheck
from relayproxy.model.finding import Finding

COUNTED = frozenset({"relayed", "queued", "rejected", "discarded", "held"})
"""Outcomes of messages that are counted: what is deferred, or answered from the ledger, comes or came another time."""

_SPF_RESULTS = frozenset({"none", "neutral", "pass", "fail", "softfail", "temperror", "permerror"})
_DKIM_RESULTS = frozenset({"none", "pass", "fail", "policy", "neutral", "temperror", "permerror"})
_APPLIED = {"reject": "rejected", "quarantine": "held"}


def row_of(
    ip: str, sender_domain: str, outcome: str, findings: Sequence[Finding]
) -> tuple[Published, Row] | None:
    """Return the policy that applied to a message and its row; None if there is nothing to report of it.

    `sender_domain` is that of MAIL FROM, "" for the null sender, `outcome` what became of the message.
    """
    dmarc = next((one for one in reversed(findings) if one.method == "dmarc"), None)
    source = _source(ip)
    if dmarc is None or outcome not in COUNTED or not source:
        return None
    record = _record(dmarc.props.get("record", ""))
    domain, author = dmarc.props.get("policy_domain", ""), dmarc.props.get("header.from", "")
    if record is None or not domain or not author:
        return None
    published = Published(domain, record, dmarc.props.get("discovery", "treewalk"))
    aligned = dmarc.props.get("aligned", "").split()
    disposition, overrides = _disposition(dmarc, outcome, published)
    checks = _spf(findings, null_sender=not sender_domain)
    row = Row(
        source,
        author,
        sender_domain,
        disposition,
        "dkim" in aligned,
        "spf" in aligned,
        overrides,
        _signatures(findings, author),
        checks,
    )
    return published, row


@lru_cache(1000)
def _record(text: str) -> DmarcRecord | None:
    """Read a record; most messages have one that was read before."""
    return parse_record(text.encode("utf-8", "replace"))


def _source(ip: str) -> str:
    """The address as the schema has it; "" where there is none (a Unix socket)."""
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return ""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _disposition(
    dmarc: Finding, outcome: str, published: Published
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return what was done for DMARC's sake, and why that is not what the policy asks for (section 3.1.6)."""
    policy = dmarc.props.get("policy", "none")
    if dmarc.result == "pass":
        return ("none" if policy == "none" else "pass"), ()
    wanted = dmarc.props.get("disposition", "none")
    # A plugin that only observes asks for what nobody does.
    done = wanted if _APPLIED.get(wanted) == outcome else "none"
    published_policy = _asked_for(dmarc, published)
    if done == published_policy:
        return done, ()
    if dmarc.props.get("override"):
        return done, ((dmarc.props["override"], dmarc.reason),)
    if published.record.t and done == policy:
        return done, (("policy_test_mode", ""),)
    if dmarc.result == "temperror":
        return done, (("other", dmarc.reason),)
    return done, (("local_policy", ""),)


def _asked_for(dmarc: Finding, published: Published) -> str:
    """The policy as published: what applied here, before testing mode took it one level down."""
    policy = dmarc.props.get("policy", "none")
    record = published.record
    if not record.t or policy not in POLICIES:
        return policy
    if dmarc.props.get("header.from") == published.domain:
        return record.p
    below = record.sp or record.p
    # Whether np applied is not noted, but shows in what is left of it.
    lowered = POLICIES[max(0, POLICIES.index(below) - 1)]
    return below if lowered == policy else record.np or below


def _signatures(findings: Sequence[Finding], author: str) -> tuple[Signature, ...]:
    """All signatures that can be named: those that matter most to the author first (section 3.1.3)."""
    found = {
        Signature(
            one.props["header.d"],
            one.props["header.s"],
            one.result,
            one.reason if one.result != "pass" else "",
        ): None
        for one in findings
        if one.method == "dkim"
        and one.result in _DKIM_RESULTS
        and one.props.get("header.d")
        and one.props.get("header.s")
    }

    def rank(one: Signature) -> tuple[int, Signature]:
        if one.result != "pass":
            return 3, one
        domain = one.domain.lower()
        related = author.endswith(f".{domain}") or domain.endswith(f".{author}")
        return (0 if domain == author else 1 if related else 2), one

    return tuple(sorted(found, key=rank))


def _spf(findings: Sequence[Finding], *, null_sender: bool) -> tuple[SpfCheck, ...]:
    """The check of MAIL FROM; for the null sender that is postmaster at the HELO name (RFC 7208 section 2.4)."""
    for one in reversed(findings):
        if one.method != "spf" or ("smtp.helo" in one.props) != null_sender:
            continue
        domain = one.props.get("domain") or one.props.get("smtp.mailfrom", "").rpartition("@")[2]
        if domain and one.result in _SPF_RESULTS:
            return (SpfCheck(domain, one.result, one.reason if one.result != "pass" else ""),)
    return ()
