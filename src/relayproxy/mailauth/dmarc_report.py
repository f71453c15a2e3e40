"""DMARC aggregate reports (RFC 9990 section 3): what was seen of a domain, counted, as XML.

The same rows give the same octets. Must not know where rows come from, DNS, or how a report is sent.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from relayproxy.mailauth.dmarc_record import DmarcRecord
from relayproxy.mailauth.reports import Reporter, file_name, identity

NAMESPACE: Final = "urn:ietf:params:xml:ns:dmarc-2.0"

_LONGEST = 1000  # characters of any one text
_MOST_SIGNATURES = 100  # RFC 9990 section 3.1.3


@dataclass(frozen=True, slots=True, order=True)
class Signature:
    """One DKIM signature: d=, s=, its result (RFC 8601 section 2.7.1), and why it is not a pass."""

    domain: str
    selector: str
    result: str
    reason: str = ""


@dataclass(frozen=True, slots=True, order=True)
class SpfCheck:
    """The SPF check of MAIL FROM: the domain, its result (RFC 8601 section 2.7.2), and why it is not a pass."""

    domain: str
    result: str
    reason: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Row:
    """What one message, and each like it, was.

    `source_ip` as ipaddress writes it. `disposition` is "none", "pass", "quarantine" or "reject"; `dkim` and `spf`
    say whether a result is aligned with the author's domain `header_from`. `overrides` are (why the
    policy was not applied, in a word of RFC 9990 section 3.1.6, and a comment). `envelope_from` is the domain of MAIL FROM, "" for the null sender.
    """

    source_ip: str
    header_from: str
    envelope_from: str
    disposition: str
    dkim: bool
    spf: bool
    overrides: tuple[tuple[str, str], ...] = ()
    signatures: tuple[Signature, ...] = ()
    spf_checks: tuple[SpfCheck, ...] = ()


@dataclass(frozen=True, slots=True)
class Published:
    """The policy that was in force: the domain where it was found, its record, "treewalk" or "psl"."""

    domain: str
    record: DmarcRecord
    discovery: str = "treewalk"


@dataclass(frozen=True, slots=True)
class Report:
    """One report of a policy domain. The period is `begin` <= time <= `end`, in seconds since the epoch."""

    reporter: Reporter
    published: Published
    begin: int
    end: int
    rows: tuple[tuple[Row, int], ...]
    errors: tuple[str, ...] = ()

    @property
    def domain(self) -> str:
        """The policy domain."""
        return self.published.domain

    @property
    def id(self) -> str:
        """The Report-ID."""
        return identity(self)

    @property
    def file_name(self) -> str:
        """The name of the compressed file."""
        return file_name(self, "xml")

    @property
    def messages(self) -> int:
        """How many messages it counts."""
        return sum(count for _, count in self.rows)


def count_rows(rows: Iterable[Row] | Mapping[Row, int]) -> tuple[tuple[Row, int], ...]:
    """Return equal rows as one with their number, the most frequent first."""
    return tuple(sorted(Counter(rows).items(), key=lambda one: (-one[1], one[0])))


def to_xml(report: Report) -> bytes:
    """Return a report as XML by the schema of RFC 9990 appendix A."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f'<feedback xmlns="{NAMESPACE}">']
    lines.append("  <version>1.0</version>")
    lines += _metadata(report)
    lines += _policy(report.published)
    for row, count in report.rows:
        lines += _record(row, count)
    lines.append("</feedback>")
    return ("\n".join(lines) + "\n").encode()


def _metadata(report: Report) -> list[str]:
    reporter = report.reporter
    lines = ["  <report_metadata>", _tag("org_name", reporter.organization, 4)]
    lines.append(_tag("email", reporter.contact, 4))
    if reporter.extra_contact:
        lines.append(_tag("extra_contact_info", reporter.extra_contact, 4))
    lines += [
        _tag("report_id", report.id, 4),
        "    <date_range>",
        _tag("begin", str(report.begin), 6),
        _tag("end", str(report.end), 6),
        "    </date_range>",
    ]
    if report.errors:
        lines.append(_tag("error", "; ".join(report.errors), 4))
    if reporter.generator:
        lines.append(_tag("generator", reporter.generator, 4))
    return [*lines, "  </report_metadata>"]


def _policy(published: Published) -> list[str]:
    """Tags that the record doesn't have are given with their defaults."""
    record = published.record
    below = record.sp or record.p
    values = {
        "domain": published.domain,
        "discovery_method": published.discovery,
        "p": record.p,
        "sp": below,
        "np": record.np or below,
        "fo": record.fo,
        "adkim": record.adkim,
        "aspf": record.aspf,
        "testing": "y" if record.t else "n",
    }
    tags = [_tag(name, value, 4) for name, value in values.items()]
    return ["  <policy_published>", *tags, "  </policy_published>"]


def _record(row: Row, count: int) -> list[str]:
    lines = ["  <record>", "    <row>"]
    lines += [_tag("source_ip", row.source_ip, 6), _tag("count", str(count), 6), "      <policy_evaluated>"]
    lines += [
        _tag("disposition", row.disposition, 8),
        _tag("dkim", "pass" if row.dkim else "fail", 8),
        _tag("spf", "pass" if row.spf else "fail", 8),
    ]
    for kind, comment in row.overrides:
        lines += ["        <reason>", _tag("type", kind, 10)]
        lines += [_tag("comment", comment, 10)] if comment else []
        lines.append("        </reason>")
    lines += ["      </policy_evaluated>", "    </row>", "    <identifiers>"]
    lines += [_tag("header_from", row.header_from, 6), _tag("envelope_from", row.envelope_from, 6)]
    lines += ["    </identifiers>", "    <auth_results>"]
    for one in row.signatures[:_MOST_SIGNATURES]:
        lines += ["      <dkim>", _tag("domain", one.domain, 8), _tag("selector", one.selector, 8)]
        lines += [*_result(one.result, one.reason), "      </dkim>"]
    for check in row.spf_checks[:1]:
        lines += ["      <spf>", _tag("domain", check.domain, 8), _tag("scope", "mfrom", 8)]
        lines += [*_result(check.result, check.reason), "      </spf>"]
    return [*lines, "    </auth_results>", "  </record>"]


def _result(result: str, reason: str) -> list[str]:
    lines = [_tag("result", result, 8)]
    return [*lines, _tag("human_result", reason, 8)] if reason else lines


def _tag(name: str, text: str, indent: int) -> str:
    return f"{' ' * indent}<{name}>{escape(_characters(text))}</{name}>"


def _characters(text: str) -> str:
    """Text that XML can hold (XML 1.0 section 2.2), of bounded length, on one line."""
    return "".join(c if _allowed(c) else "\ufffd" for c in text[:_LONGEST])


def _allowed(character: str) -> bool:
    number = ord(character)
    return 0x20 <= number <= 0xD7FF or 0xE000 <= number <= 0xFFFD or number >= 0x10000
