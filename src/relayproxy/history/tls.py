"""What reports on TLS are made of: how the connections to each policy domain fared in a period, from the history.

Must not know JSON of reports, or mail.
"""

import re
from collections import Counter
from ipaddress import ip_address

import orjson

from relayproxy.history.database import Database
from relayproxy.mailauth.tls_report import Failure, Policy, Seen

_TYPES = {"dane": "tlsa", "tlsa": "tlsa", "mta-sts": "sts", "sts": "sts"}
"""What stands in an event as its policy, in the words of RFC 8460; every other asks nothing of the domain."""

_PLACE = re.compile(r"\A\S+:\d{1,5}: ")
"""In front of a reason stands the address and port that were tried, which reports leave out."""


def collect(
    database: Database, since: float, until: float, *, domain: str = ""
) -> dict[str, tuple[Seen, ...]]:
    """Return what was seen of each policy domain (of one, if named) in since <= time < until, in order of the names.

    Next hops that are addresses belong to no domain and are left out. Raises StoreError.
    """
    rows = database.rows(
        "SELECT details ->> 'domain', details ->> 'policy', coalesce(details ->> 'policy_strings', '[]'),"
        " coalesce(details ->> 'mx_patterns', '[]'), details ->> 'host', outcome, reason, COUNT(*)"
        " FROM event WHERE kind = 'tls' AND at >= ? AND at < ? GROUP BY 1, 2, 3, 4, 5, 6, 7",
        (since, until),
    )
    successes: Counter[Policy] = Counter()
    failures: dict[Policy, Counter[Failure]] = {}
    for name, policy, strings, patterns, host, outcome, reason, count in rows:
        named = name.lower().rstrip(".")
        if not _is_domain(named) or (domain and named != domain):
            continue
        under = Policy(
            _TYPES.get(policy, "no-policy-found"),
            named,
            tuple(orjson.loads(strings)),
            tuple(orjson.loads(patterns)),
        )
        counts = failures.setdefault(under, Counter())
        if outcome == "success":
            successes[under] += count
        else:
            counts[Failure(outcome, host, _PLACE.sub("", reason))] += count
    seen: dict[str, list[Seen]] = {}
    for under in sorted(failures):
        seen.setdefault(under.domain, []).append(Seen(under, successes[under], failures[under]))
    return {name: tuple(seen[name]) for name in sorted(seen)}


def _is_domain(name: str) -> bool:
    if "." not in name or name.startswith("["):
        return False
    try:
        ip_address(name)
    except ValueError:
        return True
    return False
