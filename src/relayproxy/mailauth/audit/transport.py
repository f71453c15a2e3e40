"""MTA-STS (RFC 8461) and TLS-RPT (RFC 8460) as the owner of a domain should see them.

The policy file is fetched elsewhere: this judges what came. Must not know HTTP beyond a status and a media type.
"""

import re
from collections.abc import Sequence
from typing import Literal

from relayproxy.mailauth.audit.report import Line, Record
from relayproxy.mailauth.lookup import Fetch
from relayproxy.mailauth.mta_sts import (
    MOST_OCTETS,
    PolicyFile,
    parse_policy,
    record_id,
    sts_name,
    sts_records,
)
from relayproxy.model.reply import printable

_DAY = 86_400
_REPORT = re.compile(rb"v=TLSRPTv1\s*(?:;|\Z)")
_RUA = re.compile(rb"(?:;|\A)\s*rua\s*=\s*([^;]+)")


async def sts_record(domain: str, fetch: Fetch) -> tuple[Literal["none", "unknown", "there", "broken"], Line]:
    """Judge the record that says that there is a policy (section 3.1), and say whether there is one."""
    name = sts_name(domain)
    (answer,) = await fetch([(name, "TXT")])
    if answer.failed:
        return "unknown", Line("mta-sts", name, "error", f"DNS gave no answer ({answer.status.value})")
    records = sts_records(answer)
    if not records:
        text = "there is no MTA-STS: senders can be kept from using TLS"
        return "none", Line("mta-sts", name, "warning", text)
    if len(records) > 1:
        text = f"there are {len(records)} records, which is as good as none: leave one"
        return "broken", Line("mta-sts", name, "error", text)
    found = record_id(records[0])
    if not found:
        return "broken", Line(
            "mta-sts", name, "error", "id= is missing, or not letters and digits, at most 32"
        )
    return "there", Line("mta-sts", name, "ok", f"id {found}")


def audit_policy(domain: str, file: PolicyFile, hosts: Sequence[str]) -> list[Line]:
    """Judge a policy file; `hosts` are those of the MX records."""
    name = f"https://mta-sts.{domain}/.well-known/mta-sts.txt"

    def line(level: Literal["ok", "warning", "error"], text: str) -> Line:
        return Line("mta-sts", name, level, text)

    if file.fault:
        return [line("error", file.fault)]
    if 300 <= file.status < 400:
        return [line("error", f"status {file.status}: senders follow no redirect")]
    if file.status != 200:
        return [line("error", f"status {file.status}")]
    if len(file.text) > MOST_OCTETS:
        return [line("error", f"it has more than {MOST_OCTETS} octets")]
    policy = parse_policy(file.text)
    lines = [line("error", fault) for fault in policy.faults]
    if file.media_type != "text/plain":
        lines.append(
            line("warning", f"its type is {printable(file.media_type or 'unknown', 60)}, not text/plain")
        )
    if lines and policy.faults:
        return lines
    missing = [host for host in hosts if not policy.covers(host)]
    if missing and policy.mode != "none":
        text = f"no mx: line covers {', '.join(missing)}"
        consequence = ": senders deliver nothing there" if policy.mode == "enforce" else ""
        lines.append(line("error", f"{text}{consequence}"))
    if policy.mode != "enforce":
        lines.append(
            line("warning", f"mode {policy.mode} protects nothing: go on to enforce when reports look good")
        )
    if policy.max_age < _DAY:
        lines.append(line("warning", f"max_age {policy.max_age} is short: some weeks are usual"))
    return lines or [line("ok", f"mode {policy.mode}, max_age {policy.max_age}")]


async def audit_tls_reports(domain: str, fetch: Fetch) -> Line:
    """Judge the record that says where reports on TLS go (RFC 8460 section 3)."""
    name = f"_smtp._tls.{domain}"
    (answer,) = await fetch([(name, "TXT")])
    if answer.failed:
        return Line("tls-rpt", name, "error", f"DNS gave no answer ({answer.status.value})")
    records = [text for text in answer.records if _REPORT.match(text)]
    starter = Record(name, f"v=TLSRPTv1; rua=mailto:tls-reports@{domain}")
    if not records:
        return Line("tls-rpt", name, "warning", "nobody tells you about failing TLS", (starter,))
    if len(records) > 1:
        text = f"there are {len(records)} records, which is as good as none: leave one"
        return Line("tls-rpt", name, "error", text)
    found = _RUA.search(records[0])
    targets = [part.strip().decode("ascii", "replace") for part in found[1].split(b",")] if found else []
    bad = [uri for uri in targets if not uri.startswith(("mailto:", "https:"))]
    if not targets or bad:
        text = f"{printable(bad[0], 100)} is neither mailto: nor https:" if bad else "it has no rua="
        return Line("tls-rpt", name, "error", text, (starter,))
    return Line("tls-rpt", name, "ok", f"reports go to {printable(', '.join(targets), 200)}")
