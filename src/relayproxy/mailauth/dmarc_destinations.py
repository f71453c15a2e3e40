"""Where aggregate reports go: the `rua` of a record, and whether its destinations want them (RFC 9990 section 4).

Without the check, anybody could have reports sent to anybody. Must not know what a report holds, and asks DNS through
a Fetch.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from relayproxy.mailauth.dmarc import Organization, organizational_domain
from relayproxy.mailauth.dmarc_record import is_record, tags_of
from relayproxy.mailauth.lookup import Fetch
from relayproxy.model.address import to_a_label

MOST_DESTINATIONS = 10

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_URI = re.compile(r"mailto:([^\s,!?]{1,400})(?:\?[^\s,!]*)?(?:!([0-9]{1,12})([kmgt]?))?\Z", re.IGNORECASE)
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*\Z")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_LONGEST_NAME = 253


@dataclass(frozen=True, slots=True)
class Destination:
    """One mailbox for reports: `local`@`domain` (A-labels), and the most octets that it takes, 0 for any number."""

    local: str
    domain: str
    limit: int = 0

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A destination that gets no report; `temporary` if the answer may be another one later."""

    uri: str
    reason: str
    temporary: bool = False


def read_destinations(record: str) -> tuple[tuple[Destination, ...], tuple[Refusal, ...]]:
    """Return the mailboxes that `rua` of a record names, and what in it is none."""
    found: dict[str, Destination] = {}
    refused: list[Refusal] = []
    for uri in filter(None, (part.strip() for part in tags_of(record).get("rua", "").split(","))):
        one = read_mailto(uri)
        if one is None:
            refused.append(Refusal(uri, "not a mailto URI that mail can be sent to"))
        elif len(found) == MOST_DESTINATIONS and str(one) not in found:
            refused.append(Refusal(uri, f"more than {MOST_DESTINATIONS} destinations"))
        else:
            found.setdefault(str(one), one)
    return tuple(found.values()), tuple(refused)


def read_mailto(uri: str) -> Destination | None:
    """Return the mailbox of `mailto:address!10m`, None for what is none; in the address, "," and "!" are written as %2C and %21 (RFC 9989 section 4.7)."""
    match = _URI.match(uri)
    if match is None:
        return None
    local, at, domain = unquote(match[1], errors="replace").rpartition("@")
    domain = to_a_label(domain)
    labels = domain.split(".")
    if not (at and len(local) <= 64 and _LOCAL.match(local)):
        return None
    if len(labels) < 2 or len(domain) > _LONGEST_NAME or not all(map(_LABEL.match, labels)):
        return None
    limit = int(match[2]) * _UNITS[match[3].lower()] if match[2] else 0
    return Destination(local, domain, limit)


async def verify(
    destination: Destination, policy_domain: str, fetch: Fetch, organization: Organization | None = None
) -> tuple[Destination, ...] | Refusal:
    """Return where the reports of `policy_domain` for a destination go, or why they don't (RFC 9990 section 4).

    Within one organizational domain nobody is asked. Else the destination's domain has to say that it wants them, and
    may name other mailboxes of the same domain.
    """
    uri = f"mailto:{destination}"
    try:
        ours = await organizational_domain(policy_domain, fetch, organization)
        if ours == await organizational_domain(destination.domain, fetch, organization):
            return (destination,)
    except LookupError as error:
        return Refusal(uri, str(error), temporary=True)
    name = f"{to_a_label(policy_domain)}._report._dmarc.{destination.domain}"
    if len(name) > _LONGEST_NAME:
        return Refusal(uri, "the name that would have to confirm it is too long for DNS")
    (answer,) = await fetch([(name, "TXT")])
    if answer.failed:
        return Refusal(uri, f"the look-up of {name} failed", temporary=True)
    records = [text.decode("ascii", "replace") for text in answer.records if is_record(text)]
    if not records:
        return Refusal(uri, f"{name} does not confirm that {destination.domain} wants these reports")
    return _overridden(destination, records)


def _overridden(destination: Destination, records: Iterable[str]) -> tuple[Destination, ...] | Refusal:
    """Where the confirming record sends the reports: nowhere, if it names another domain."""
    for record in records:
        if "rua" not in tags_of(record):
            continue
        others, _ = read_destinations(record)
        if not others or any(one.domain != destination.domain for one in others):
            reason = f"{destination.domain} hands the reports on to another domain"
            return Refusal(f"mailto:{destination}", reason)
        return others
    return (destination,)
