"""DMARC (RFC 9989): whether one of the domains that SPF and DKIM vouch for is that of the author.

Finds the policy and the organizational domains by the DNS tree walk; a public suffix list can stand in for it.
Must not know how From was read, and says what the domain's owner asks for, not what is done.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from relayproxy.mailauth.dmarc_record import DmarcRecord, parse_record
from relayproxy.mailauth.lookup import Answer, Fetch, no_such_name
from relayproxy.model.address import to_a_label

_WALK = 8  # queries of one walk (section 4.10)
_DISCOVERED = 3  # domains that are asked about before it is known whether they count
_IDENTIFIERS = 12  # more domains than one message can reasonably be signed by

Organization: TypeAlias = Callable[[str], str]
"""Returns the organizational domain of a domain by other means than the tree walk."""


@dataclass(frozen=True, slots=True)
class Identifier:
    """A domain that SPF ("spf") or DKIM ("dkim") answered for, with its result; only "pass" and "temperror" count."""

    method: str
    domain: str
    result: str = "pass"


@dataclass(frozen=True, slots=True)
class DmarcResult:
    """`result` is "none" (there is no policy), "pass", "fail" or "temperror".

    `domain` is the author's, `policy` what its owner asks for when the result is a fail ("none", "quarantine" or
    "reject"; sp, np and t are taken into account), `policy_domain` where the record was found. `organization` is
    the organizational domain, or "" where there was no need to find it.
    """

    result: str
    domain: str
    policy: str = ""
    policy_domain: str = ""
    organization: str = ""
    record: DmarcRecord | None = None
    spf_aligned: bool = False
    dkim_aligned: bool = False
    reason: str = ""


class _LookupFailedError(Exception):
    """DNS gave no answer; the argument is the name."""


async def evaluate(
    author: str, identifiers: Iterable[Identifier], fetch: Fetch, organization: Organization | None = None
) -> DmarcResult:
    """Evaluate DMARC for the domain of the author. With `organization` there is no tree walk.

    A DNS failure makes the result "temperror" only if the answer could have changed it.
    """
    author = _canonical(author)
    tree: _Tree | _Listed = _Listed(fetch, organization) if organization else _Tree(fetch)
    try:
        policy_domain, record = await tree.policy(author)
    except _LookupFailedError as error:
        return DmarcResult("temperror", author, reason=f"the look-up of {error} failed")
    if record is None:
        return DmarcResult("none", author)
    if not record.usable:
        reason = f"the record of {policy_domain} has no valid policy"
        return DmarcResult("none", author, policy_domain=policy_domain, record=record, reason=reason)
    aligned, trouble = await _align(author, identifiers, record, tree)
    exists = True
    if not aligned and not trouble and record.np and policy_domain != author:
        (answer,) = await fetch([(author, "A")])
        exists = not no_such_name(answer)
        trouble = f"the look-up of {author} failed" if answer.failed else ""
    return DmarcResult(
        "pass" if aligned else "temperror" if trouble else "fail",
        author,
        record.policy_for(subdomain=policy_domain != author, exists=exists),
        policy_domain,
        tree.known(author),
        record,
        spf_aligned="spf" in aligned,
        dkim_aligned="dkim" in aligned,
        reason="" if aligned else trouble,
    )


async def discover(
    author: str, others: Iterable[str], fetch: Fetch, organization: Organization | None = None
) -> None:
    """Ask all that `evaluate` will want to know, whichever of the domains `others` SPF and DKIM will answer for.

    For the caller whose `fetch` remembers: it can be done while SPF and DKIM are being checked.
    """
    author = _canonical(author)
    tree: _Tree | _Listed = _Listed(fetch, organization) if organization else _Tree(fetch)
    try:
        _, record = await tree.policy(author)
    except _LookupFailedError:
        return
    if record is not None and "r" in (record.aspf, record.adkim):
        top = author.rpartition(".")[2]
        known = dict.fromkeys(_canonical(other) for other in others)
        relatives = [name for name in known if name != author and name.rpartition(".")[2] == top]
        if relatives:
            await tree.load([author, *relatives[:_DISCOVERED]])


async def organizational_domain(domain: str, fetch: Fetch, organization: Organization | None = None) -> str:
    """Return the organizational domain of `domain` (section 4.10.2). Raises LookupError if DNS gives no answer."""
    domain = _canonical(domain)
    if organization is not None:
        return organization(domain)
    tree = _Tree(fetch)
    await tree.load([domain])
    try:
        return tree.organization(domain)
    except _LookupFailedError as error:
        raise LookupError(f"the look-up of {error} failed") from error


async def _align(
    author: str, identifiers: Iterable[Identifier], record: DmarcRecord, tree: "_Tree | _Listed"
) -> tuple[set[str], str]:
    """Return the methods that vouch for the author (section 4.4), and what keeps us from being sure."""
    modes = {"spf": record.aspf, "dkim": record.adkim}
    asked = [
        Identifier(one.method, _canonical(one.domain), one.result)
        for one in dict.fromkeys(identifiers)
        if one.result in ("pass", "temperror") and one.method in modes
    ][:_IDENTIFIERS]
    # Domains under different top-level domains share no organizational domain.
    top = author.rpartition(".")[2]
    relatives = [
        one.domain
        for one in asked
        if modes[one.method] == "r" and one.domain != author and one.domain.rpartition(".")[2] == top
    ]
    if relatives:
        await tree.load([author, *relatives])
    aligned: set[str] = set()
    trouble = ""
    for one in asked:
        try:
            same = one.domain == author or (
                modes[one.method] == "r"
                and one.domain in relatives
                and tree.organization(one.domain) == tree.organization(author)
            )
        except _LookupFailedError as error:
            trouble = f"the look-up of {error} failed"
            continue
        if same and one.result == "pass":
            aligned.add(one.method)
        elif same:
            trouble = f"the result of {one.method} for {one.domain} is not known"
    return aligned, trouble


async def organizations(domains: Iterable[str], fetch: Fetch) -> dict[str, str]:
    """Return the organizational domain of each domain by tree walks (section 4.10.2), "" where DNS gave no answer."""
    tree = _Tree(fetch)
    names = {domain: _canonical(domain) for domain in domains}
    await tree.load(names.values())
    return {domain: tree.known(name) for domain, name in names.items()}


class _Tree:
    """The records on the way from a domain to the root of DNS (section 4.10), each asked for once."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._answers: dict[str, Answer] = {}
        self._records: dict[str, DmarcRecord | None] = {}

    async def load(self, domains: Iterable[str]) -> None:
        """Ask for all that the walks from `domains` may need, at once: none of it depends on another answer."""
        await self._ask([name for domain in domains for name in walk_names(domain)])

    async def _ask(self, names: Iterable[str]) -> None:
        missing = [name for name in dict.fromkeys(names) if name not in self._answers]
        if missing:
            answers = await self._fetch([(f"_dmarc.{name}", "TXT") for name in missing])
            self._answers.update(zip(missing, answers, strict=True))

    async def policy(self, author: str) -> tuple[str, DmarcRecord | None]:
        """Return the record that applies to the author and where it was found (section 4.10.1)."""
        await self._ask([author])
        record = self._at(author)
        if record is not None:
            return author, record
        await self.load([author])
        walked = self._walk(author)
        places = dict(walked)
        organization = self.organization(author)
        if organization in places:
            return organization, places[organization]
        # The walk stopped at a public suffix whose operator has a policy for all below it.
        return walked[-1] if walked else ("", None)

    def organization(self, domain: str) -> str:
        """Return the organizational domain (section 4.10.2); `load` has been called for it."""
        walked = self._walk(domain)
        for name, record in walked:
            if record.psd == "n":
                return name
            if record.psd == "y" and name != domain:
                return ".".join(domain.split(".")[-name.count(".") - 2 :])
        return walked[-1][0] if walked else domain

    def known(self, domain: str) -> str:
        """Return the organizational domain if all that it takes has been asked for, or ""."""
        try:
            return self.organization(domain)
        except (KeyError, _LookupFailedError):
            return ""

    def _walk(self, domain: str) -> list[tuple[str, DmarcRecord]]:
        """Return the records from the longest name to the shortest, up to one that says psd=y or psd=n."""
        walked = []
        for name in walk_names(domain):
            record = self._at(name)
            if record is not None:
                walked.append((name, record))
                if record.psd != "u":
                    break
        return walked

    def _at(self, name: str) -> DmarcRecord | None:
        """Return the one record of a name; several are as good as none."""
        if name not in self._records:
            answer = self._answers[name]
            if answer.failed:
                raise _LookupFailedError(f"_dmarc.{name}")
            self._records[name] = _only_record(answer)
        return self._records[name]


class _Listed:
    """Policy discovery by a list of public suffixes, as before RFC 9989: the author's domain, then the organization's."""

    def __init__(self, fetch: Fetch, organization: Organization) -> None:
        self._fetch = fetch
        self.organization = organization
        self.known = organization

    async def load(self, domains: Iterable[str]) -> None:
        """The list is at hand."""

    async def policy(self, author: str) -> tuple[str, DmarcRecord | None]:
        """Return the record that applies to the author and where it was found."""
        names = list(dict.fromkeys((author, self.organization(author))))
        for name, answer in zip(
            names, await self._fetch([(f"_dmarc.{n}", "TXT") for n in names]), strict=True
        ):
            if answer.failed:
                raise _LookupFailedError(f"_dmarc.{name}")
            record = _only_record(answer)
            if record is not None:
                return name, record
        return "", None


def walk_names(domain: str) -> list[str]:
    """Return the names of a tree walk from `domain`, at most eight (section 4.10)."""
    labels = domain.split(".")
    shorter = labels[1:] if len(labels) < _WALK else labels[-_WALK + 1 :]
    return [domain, *(".".join(shorter[start:]) for start in range(len(shorter)))]


def _only_record(answer: Answer) -> DmarcRecord | None:
    found = [record for record in map(parse_record, answer.records) if record is not None]
    return found[0] if len(found) == 1 else None


def _canonical(domain: str) -> str:
    return to_a_label(domain).rstrip(".")
