"""Where aggregate reports go: the `rua` of a record, and whether its destinations want them (RFC 9990 section 4).

Without the check, anybody could have reports sent to anybody. Must not know what a report holds, and asks DNS through
a Fetch.
"""

from collections.abc import Iterable

from relayproxy.mailauth.dmarc import Organization, organizational_domain
from relayproxy.mailauth.dmarc_record import is_record, tags_of
from relayproxy.mailauth.lookup import Fetch
from relayproxy.mailauth.report_places import LONGEST_NAME, Destination, Refusal, read_mailto, read_places
from relayproxy.model.address import to_a_label


def read_destinations(record: str) -> tuple[tuple[Destination, ...], tuple[Refusal, ...]]:
    """Return the mailboxes that `rua` of a record names, and what in it is none."""
    return read_places(tags_of(record).get("rua", ""), read_mailto, "a mailto URI that mail can be sent to")


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
    if len(name) > LONGEST_NAME:
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
