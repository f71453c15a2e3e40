"""MTA-STS (RFC 8461) and TLS-RPT (RFC 8460) as the owner of a domain should see them.

The policy file is fetched elsewhere: this judges what came. Must not know HTTP beyond a status and a media type.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from relayproxy.mailauth.audit.report import Line, Record
from relayproxy.mailauth.lookup import Fetch
from relayproxy.model.reply import printable

MOST_OCTETS = 65_536
"""RFC 8461 section 3.3: a larger policy is refused by some."""

_DAY = 86_400
_YEAR = 31_557_600  # section 3.2: the most that max_age may say
_ID = re.compile(rb"v=STSv1\s*;.*?\bid\s*=\s*([A-Za-z0-9]{1,32})\s*(?:;|\Z)", re.DOTALL)
_STS = re.compile(rb"v=STSv1\s*(?:;|\Z)")
_REPORT = re.compile(rb"v=TLSRPTv1\s*(?:;|\Z)")
_RUA = re.compile(rb"(?:;|\A)\s*rua\s*=\s*([^;]+)")
_PATTERN = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9._-]*[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """What came for https://mta-sts.DOMAIN/.well-known/mta-sts.txt; with a `fault` nothing did."""

    status: int = 0
    text: bytes = b""
    media_type: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy: `mode` is "enforce", "testing" or "none", `max_age` in seconds; `faults` are its mistakes."""

    mode: str = ""
    max_age: int = 0
    mx: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    def covers(self, host: str) -> bool:
        """Whether a pattern matches the name of an MX host (section 4.1): a wildcard stands for one label."""
        host = host.lower().rstrip(".")
        return host in self.mx or f"*.{host.partition('.')[2]}" in self.mx


def parse_policy(text: bytes) -> Policy:
    """Read a policy file (section 3.2), with all its mistakes."""
    keys: dict[str, list[str]] = {}
    faults = []
    for line in text.decode("utf-8", "replace").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            keys.setdefault(key.strip(), []).append(value.strip())
        elif line.strip():
            faults.append(f"the line {printable(line, 60)!r} has no colon")
    if keys.get("version") != ["STSv1"]:
        faults.append("version: STSv1 is missing")
    mode = keys.get("mode", [""])[0]
    if mode not in ("enforce", "testing", "none"):
        faults.append("mode is not enforce, testing or none")
    age = keys.get("max_age", [""])[0]
    if not (age.isascii() and age.isdigit() and len(age) <= 8 and int(age) <= _YEAR):
        faults.append("max_age is not a number of seconds up to 31557600")
        age = "0"
    mx = tuple(pattern.lower().rstrip(".") for pattern in keys.get("mx", ()))
    faults += [f"mx: {printable(pattern, 100)} is no name" for pattern in mx if not _PATTERN.match(pattern)]
    if not mx and mode in ("enforce", "testing"):
        faults.append("there is no mx: line")
    return Policy(mode, int(age), mx, tuple(faults))


def sts_name(domain: str) -> str:
    """Return where the record is that a domain has a policy."""
    return f"_mta-sts.{domain}"


async def sts_record(domain: str, fetch: Fetch) -> tuple[Literal["none", "unknown", "there", "broken"], Line]:
    """Judge the record that says that there is a policy (section 3.1), and say whether there is one."""
    name = sts_name(domain)
    (answer,) = await fetch([(name, "TXT")])
    if answer.failed:
        return "unknown", Line("mta-sts", name, "error", f"DNS gave no answer ({answer.status.value})")
    records = [text for text in answer.records if _STS.match(text)]
    if not records:
        text = "there is no MTA-STS: senders can be kept from using TLS"
        return "none", Line("mta-sts", name, "warning", text)
    if len(records) > 1:
        text = f"there are {len(records)} records, which is as good as none: leave one"
        return "broken", Line("mta-sts", name, "error", text)
    found = _ID.match(records[0])
    if found is None:
        return "broken", Line(
            "mta-sts", name, "error", "id= is missing, or not letters and digits, at most 32"
        )
    return "there", Line("mta-sts", name, "ok", f"id {found[1].decode()}")


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
