"""Reports on TLS (RFC 8460 section 4): how the connections to a domain's mail servers fared in a period, as JSON.

The same counts give the same octets. Must not know where counts come from, DNS, or how a report is sent.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from relayproxy.mailauth.dane import Tlsa
from relayproxy.mailauth.mta_sts import Policy as StsPolicy
from relayproxy.mailauth.reports import Reporter, file_name, identity

POLICY_TYPES: Final = ("tlsa", "sts", "no-policy-found")
"""What a domain can say about TLS with its mail servers (RFC 8460 section 4.2)."""

MEDIA_TYPE: Final = "application/tlsrpt+gzip"

_MOST_DETAILS = 100  # different failures of one policy that are told apart


@dataclass(frozen=True, slots=True, order=True)
class Policy:
    """The policy that connections were made under: one of POLICY_TYPES, of a domain (A-labels).

    `strings` are the TLSA records or the lines of the MTA-STS policy, `mx` the patterns of the latter; empty where they were
    not recorded.
    """

    type: str
    domain: str
    strings: tuple[str, ...] = ()
    mx: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Failure:
    """How a connection failed: a result type of RFC 8460 section 4.3, the host (its MX name), and a reason in words."""

    result: str
    host: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of one policy, in connections."""

    policy: Policy
    successes: int = 0
    failures: Mapping[Failure, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """One report of a policy domain. The period is `begin` <= time <= `end`, in seconds since the epoch."""

    reporter: Reporter
    domain: str
    begin: int
    end: int
    seen: tuple[Seen, ...]

    @property
    def id(self) -> str:
        """The report-id."""
        return identity(self, "tls!")

    @property
    def file_name(self) -> str:
        """The name of the compressed file."""
        return file_name(self, "json")

    @property
    def successes(self) -> int:
        """Connections that had TLS as it was to be."""
        return sum(one.successes for one in self.seen)

    @property
    def failures(self) -> int:
        """Connections that had not."""
        return sum(sum(one.failures.values()) for one in self.seen)


def to_json(report: Report) -> bytes:
    """Return a report as JSON by the schema of RFC 8460 section 4.4."""
    value = {
        "organization-name": report.reporter.organization,
        "date-range": {"start-datetime": _time(report.begin), "end-datetime": _time(report.end)},
        "contact-info": report.reporter.contact,
        "report-id": report.id,
        "policies": [_seen(one) for one in sorted(report.seen, key=lambda one: one.policy)],
    }
    return json.dumps(value, indent=1, ensure_ascii=True).encode("ascii") + b"\n"


def _time(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seen(seen: Seen) -> dict[str, Any]:
    policy = seen.policy
    described: dict[str, Any] = {"policy-type": policy.type}
    if policy.strings:
        described["policy-string"] = list(policy.strings)
    described["policy-domain"] = policy.domain
    if policy.mx:
        described["mx-host"] = list(policy.mx)
    failures = _bounded(seen.failures)
    value: dict[str, Any] = {
        "policy": described,
        "summary": {
            "total-successful-session-count": seen.successes,
            "total-failure-session-count": sum(failures.values()),
        },
    }
    if failures:
        ordered = sorted(failures.items(), key=lambda one: (-one[1], one[0]))
        value["failure-details"] = [_failure(failure, count) for failure, count in ordered]
    return value


def _failure(failure: Failure, count: int) -> dict[str, Any]:
    value: dict[str, Any] = {"result-type": failure.result}
    if failure.host:
        value["receiving-mx-hostname"] = failure.host
    value["failed-session-count"] = count
    if failure.reason:
        value["failure-reason-code"] = failure.reason
    return value


def _bounded(failures: Mapping[Failure, int]) -> Mapping[Failure, int]:
    """Where there are very many different failures, the rare ones lose their reasons, and then their hosts."""
    kept = Counter(failures)
    for with_host in (True, False):
        if len(kept) <= _MOST_DETAILS:
            break
        ordered = sorted(kept.items(), key=lambda one: (-one[1], one[0]))
        kept = Counter(dict(ordered[:_MOST_DETAILS]))
        for failure, count in ordered[_MOST_DETAILS:]:
            kept[Failure(failure.result, failure.host if with_host else "")] += count
    return kept


def tlsa_strings(records: Iterable[Tlsa]) -> tuple[str, ...]:
    """Return TLSA records in presentation format, as `policy-string` has them (RFC 8460 section 4.2)."""
    return tuple(
        sorted(f"{one.usage} {one.selector} {one.mtype} {one.data.hex().upper()}" for one in records)
    )


def sts_strings(policy: StsPolicy) -> tuple[str, ...]:
    """Return the lines of an MTA-STS policy, as `policy-string` has them."""
    patterns = (f"mx: {pattern}" for pattern in policy.mx)
    return ("version: STSv1", f"mode: {policy.mode}", *patterns, f"max_age: {policy.max_age}")
