"""DMARC records (RFC 9989) as their owner should see them, and where their reports go (RFC 9990 section 4).

Must not know how mail is judged by them: that is mailauth.dmarc.
"""

import re
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from relayproxy.mailauth.audit.report import Line, Record
from relayproxy.mailauth.dmarc import evaluate, organizations
from relayproxy.mailauth.dmarc_record import POLICIES, DmarcRecord, parse_record
from relayproxy.mailauth.lookup import Fetch
from relayproxy.model.address import to_a_label
from relayproxy.model.reply import printable

_TAG = re.compile(rb"\s*([A-Za-z]+)\s*=")
_KNOWN = frozenset({"v", "p", "sp", "np", "adkim", "aspf", "psd", "t", "rua", "ruf", "fo"})
_REMOVED = frozenset({"pct", "rf", "ri"})
_MAILBOX = re.compile(r"[^@\s]+@([A-Za-z0-9._-]+)\Z")
_MOST_TARGETS = 10


async def audit_dmarc(domain: str, fetch: Fetch) -> list[Line]:
    """Judge the record that applies to a domain, by the tree walk of RFC 9989 section 4.10."""
    name = f"_dmarc.{domain}"
    (answer,) = await fetch([(name, "TXT")])
    records = [text for text in answer.records if parse_record(text) is not None]
    if len(records) > 1:
        text = f"there are {len(records)} DMARC records, and none of them counts: leave one"
        return [Line("dmarc", name, "error", text)]
    if answer.records and not records:
        text = "what is published here is no DMARC record: it must begin with v=DMARC1;"
        return [Line("dmarc", name, "error", text, (_starter(domain),))]
    found = await evaluate(domain, (), fetch)
    if found.result == "temperror":
        return [Line("dmarc", name, "error", f"DNS gave no answer: {found.reason}")]
    if found.record is None:
        text = "no DMARC record applies: anybody may use this domain in From"
        return [Line("dmarc", name, "error", text, (_starter(domain),))]
    name = f"_dmarc.{found.policy_domain}"
    lines = _policy(name, found.record, own=found.policy_domain == domain)
    if records:
        lines += _tags(name, records[0], found.record)
    return lines + await _reports(name, found.policy_domain, found.record, fetch)


def _starter(domain: str) -> Record:
    return Record(f"_dmarc.{domain}", f"v=DMARC1; p=none; rua=mailto:dmarc-reports@{domain}")


def _policy(name: str, record: DmarcRecord, *, own: bool) -> list[Line]:
    if not record.usable:
        return [Line("dmarc", name, "error", "it has no p= with none, quarantine or reject, and is ignored")]
    policy = record.policy_for(subdomain=not own)
    whose = "" if own else f", from {name}"
    if record.t:
        text = f"t=y says that it is a test, and weakens the policy to {policy}{whose}"
        return [Line("dmarc", name, "warning", text)]
    if policy == "none":
        text = f"p=none{whose} keeps nobody from using the domain: go on to quarantine when the reports look good"
        return [Line("dmarc", name, "warning", text)]
    return [Line("dmarc", name, "ok", f"policy {policy}{whose}")]


def _tags(name: str, text: bytes, record: DmarcRecord) -> list[Line]:
    tags = [found[1].decode().lower() for part in text.split(b";") if (found := _TAG.match(part))]
    odd = set(tags) - _KNOWN
    twice = {tag for tag in tags if tags.count(tag) > 1}
    lines = [
        *(_warn(name, f"{tag}= is ignored since RFC 9989: take it out") for tag in sorted(odd & _REMOVED)),
        *(_warn(name, f"{printable(tag, 40)}= is no tag, and ignored") for tag in sorted(odd - _REMOVED)),
        *(
            _warn(name, f"{printable(tag, 40)}= is there twice, and the first counts")
            for tag in sorted(twice)
        ),
    ]
    weaker = [
        f"{tag}={value}"
        for tag, value in (("sp", record.sp), ("np", record.np))
        if value and record.usable and POLICIES.index(value) < POLICIES.index(record.p)
    ]
    if weaker:
        lines.append(
            _warn(
                name, f"{' and '.join(weaker)} leaves the domains below it less protected than p={record.p}"
            )
        )
    return lines


def _warn(name: str, text: str) -> Line:
    return Line("dmarc", name, "warning", text)


# -- where reports go -------------------------------------------------------------------------------------------


async def _reports(name: str, domain: str, record: DmarcRecord, fetch: Fetch) -> list[Line]:
    """Say whether the aggregate reports arrive anywhere."""
    if not record.rua:
        return [_warn(name, "it has no rua=: nobody tells you who uses the domain")]
    lines, hosts = [], []
    for uri in record.rua[:_MOST_TARGETS]:
        host = _host_of(uri)
        if host:
            hosts.append(host)
        else:
            lines.append(_warn(name, f"{printable(uri, 100)} is no address that reports are sent to"))
    owners = await organizations([domain, *hosts], fetch)
    for host in dict.fromkeys(hosts):
        lines += await _reachable(name, host, fetch)
        if not owners[host] or not owners[domain]:
            lines.append(Line("dmarc", name, "error", f"DNS gave no answer about {host}"))
        elif owners[host] != owners[domain]:
            lines.append(await _authorised(domain, host, fetch))
    return lines


def _host_of(uri: str) -> str:
    """Return the domain of a mailto URI in A-labels, "" for anything else."""
    try:
        parts = urlsplit(uri)
        found = _MAILBOX.match(unquote(parts.path)) if parts.scheme.lower() == "mailto" else None
        return to_a_label(found[1]).rstrip(".") if found else ""
    except ValueError:
        return ""


async def _reachable(name: str, host: str, fetch: Fetch) -> Sequence[Line]:
    mx, a, aaaa = await fetch([(host, "MX"), (host, "A"), (host, "AAAA")])
    if mx.failed:
        return [Line("dmarc", name, "error", f"DNS gave no answer for the MX of {host}")]
    if any(not target for _, target in mx.records):
        return [Line("dmarc", name, "error", f"{host} takes no mail, so no reports either")]
    if not (mx.records or a.records or aaaa.records):
        return [Line("dmarc", name, "error", f"reports go to {host}, which has neither MX nor address")]
    return []


async def _authorised(domain: str, host: str, fetch: Fetch) -> Line:
    """Say whether a host outside our organization takes the reports (RFC 9990 section 4)."""
    name = f"{domain}._report._dmarc.{host}"
    (answer,) = await fetch([(name, "TXT")])
    if answer.failed:
        return Line("dmarc", name, "error", f"DNS gave no answer ({answer.status.value})")
    if any(parse_record(text) is not None for text in answer.records):
        return Line("dmarc", name, "ok", f"{host} takes the reports")
    text = (
        f"{host} doesn't say that it takes these reports, so they are not sent: its owner has to publish this"
    )
    return Line("dmarc", name, "error", text, (Record(name, "v=DMARC1;"),))
