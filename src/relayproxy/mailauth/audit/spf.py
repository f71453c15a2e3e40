"""SPF records (RFC 7208) as their owner should see them: all terms, all that they lead to, and what they cost.

Look-ups are counted as for a client that matches nothing, which is what the limits are for. Must not know which
addresses a configuration sends from: it is told.
"""

from collections.abc import Sequence
from ipaddress import ip_address

from relayproxy.mailauth.audit.report import Line, Record
from relayproxy.mailauth.audit.spf_terms import LOOKUPS, Term, is_record, read_terms
from relayproxy.mailauth.lookup import Answer, Fetch
from relayproxy.mailauth.spf import Spf
from relayproxy.model.address import Address
from relayproxy.model.reply import printable

MOST_LOOKUPS = 10
"""RFC 7208 section 4.6.4."""
MOST_VOID = 2
"""Look-ups that may find nothing (section 4.6.4)."""
MOST_HOSTS = 10
"""Hosts of one mx term (section 4.6.4)."""

_ROOM = 450  # octets that fit an answer over UDP beside the rest (section 3.4)
_MOST_OCTETS = 8192  # mailauth.spf refuses more
_MOST_RECORDS = 40  # of a walk; whoever has more has long passed the limit
_WIDE = {"ip4": 8, "ip6": 16}


async def audit_spf(
    domain: str, fetch: Fetch, *, addresses: Sequence[str] = (), suggestion: str = "v=spf1 mx ~all"
) -> list[Line]:
    """Judge the record of a domain, and whether it lets `addresses` pass. `suggestion` is what to publish without one."""
    (answer,) = await fetch([(domain, "TXT")])
    if answer.failed:
        return [_line(domain, "error", f"DNS gave no answer ({answer.status.value})")]
    records = [text for text in answer.records if is_record(text)]
    if not records:
        near = any(b"spf" in text[:12].lower() for text in answer.records)
        text = "there is no SPF record" + (": the one that is meant must begin with v=spf1" if near else "")
        return [_line(domain, "error", text, Record(domain, suggestion))]
    if len(records) > 1:
        text = f"there are {len(records)} SPF records, which counts as a permanent error: make them one"
        return [_line(domain, "error", text)]
    walk = _Walk(domain, fetch)
    await walk.record(domain, records[0], ())
    lines = walk.lines or [_line(domain, "ok", f"{walk.lookups} look-ups of {MOST_LOOKUPS}")]
    if any(line.level == "error" for line in walk.lines):
        return lines
    return lines + [await _passes(domain, ip, records[0], fetch) for ip in addresses]


def _line(name: str, level: str, text: str, *publish: Record) -> Line:
    assert level in ("ok", "warning", "error")
    return Line("spf", name, level, text, publish)  # type: ignore[arg-type]  # mypy doesn't narrow by membership


async def _passes(domain: str, ip: str, record: bytes, fetch: Fetch) -> Line:
    """Evaluate the record for one of our own addresses."""
    result = await Spf(ip, domain, fetch).check_mail_from(Address("postmaster", domain))
    if result.result == "pass":
        return _line(domain, "ok", f"mail from {ip} passes by {result.mechanism or 'its record'}")
    term = f"ip{ip_address(ip).version}:{ip}"
    version, _, rest = record.decode("latin-1").partition(" ")
    text = f"mail from {ip} gets {result.result}{result.reason and f' ({result.reason})'}"
    return _line(domain, "error", text, Record(domain, f"{version} {term} {rest.strip()}".strip()))


class _Walk:
    """All records that one leads to, each term counted."""

    def __init__(self, domain: str, fetch: Fetch) -> None:
        self._domain = domain
        self._fetch = fetch
        self._records = 0
        self.lookups = 0
        self.void = 0
        self.lines: list[Line] = []

    async def record(self, name: str, text: bytes, above: tuple[str, ...]) -> None:
        """Judge one record and all below it; `above` are the names on the way to it."""
        self._records += 1
        if len(text) > _MOST_OCTETS:
            self._say(name, "error", [f"it has {len(text)} octets: receivers read no such record"])
            return
        terms = read_terms(text)
        where = f" in the record of {name}" if above else ""
        self._say(name, "error", [f"{_shown(term)} {term.fault}{where}" for term in terms if term.fault])
        if not above:
            self._judge(name, text, terms)
        good = [term for term in terms if not term.fault]
        ends = any(term.name == "all" for term in good)
        for term in good:
            if term.name in LOOKUPS and not (term.name == "redirect" and ends):
                self.lookups += 1
                await self._follow(name, term, (*above, name))
        if not above:
            self._count()

    def _judge(self, name: str, text: bytes, terms: Sequence[Term]) -> None:
        """Say what is unwise in the domain's own record."""
        ends = [at for at, term in enumerate(terms) if term.name == "all" and not term.fault]
        names = [term.name for term in terms]
        for term in terms:
            if term.name == "all" and term.qualifier == "+":
                self._say(name, "error", ["+all lets everybody pass: end with ~all or -all"])
            elif term.name == "all" and term.qualifier == "?":
                self._say(name, "warning", ["?all says nothing about strangers: end with ~all or -all"])
            elif term.name == "ptr":
                self._say(
                    name, "warning", ["ptr is slow, and receivers may skip it (section 5.5): name networks"]
                )
            elif not term.qualifier and not term.fault and term.name not in ("redirect", "exp"):
                self._say(name, "warning", [f"{_shown(term)} is no modifier that is known, and ignored"])
            elif term.qualifier == "+" and term.length is not None and term.length < _WIDE.get(term.name, 8):
                self._say(name, "error", [f"{_shown(term)} lets a large part of the Internet pass"])
        if not ends and "redirect" not in names:
            self._say(name, "warning", ["it has no all: strangers are neutral; end with ~all or -all"])
        if ends and "redirect" in names:
            self._say(name, "warning", ["redirect= is ignored beside all"])
        if ends and any(term.qualifier for term in terms[ends[0] + 1 :]):
            self._say(name, "warning", ["what stands behind all is ignored"])
        for modifier in ("redirect", "exp"):
            if names.count(modifier) > 1:
                self._say(name, "error", [f"{modifier}= is there twice"])
        if len(text) > _ROOM:
            self._say(name, "warning", [f"it has {len(text)} octets: beyond {_ROOM} some resolvers lose it"])

    async def _follow(self, name: str, term: Term, above: tuple[str, ...]) -> None:
        target = term.literal if term.domain else name
        if not target or self._records >= _MOST_RECORDS:
            return  # what a macro becomes is known with a message only
        if term.name in ("include", "redirect"):
            await self._include(term, target, above)
        elif term.name == "mx":
            (answer,) = await self._fetch([(target, "MX")])
            if len(answer.records) > MOST_HOSTS:
                text = f"{_shown(term)} has {len(answer.records)} hosts, {MOST_HOSTS} are allowed"
                self._say(name, "error", [text])
            self._tell(name, term, answer)
        elif term.name in ("a", "exists"):
            (answer, other) = await self._fetch([(target, "A"), (target, "AAAA")])
            self._tell(name, term, answer if answer.records or answer.failed else other)

    async def _include(self, term: Term, target: str, above: tuple[str, ...]) -> None:
        if target in above:
            self._say(above[-1], "error", [f"{_shown(term)} leads in a circle"])
            return
        (answer,) = await self._fetch([(target, "TXT")])
        if answer.failed:
            self._tell(above[-1], term, answer)
            return
        records = [text for text in answer.records if is_record(text)]
        if len(records) == 1:
            await self.record(target, records[0], above)
            return
        what = f"{len(records)} SPF records" if records else "no SPF record"
        self._say(above[-1], "error", [f"{_shown(term)} fails: {target} has {what}"])
        self.void += not answer.records

    def _tell(self, name: str, term: Term, answer: Answer) -> None:
        """Count a look-up that found nothing, and say which."""
        if answer.failed:
            text = f"DNS gave no answer ({answer.status.value}) for {_shown(term)}"
            self._say(name, "error", [text])
        elif not answer.records and term.name != "exists":
            self.void += 1
            self._say(name, "warning", [f"{_shown(term)} finds nothing: take it out"])

    def _count(self) -> None:
        if self.lookups > MOST_LOOKUPS or self._records >= _MOST_RECORDS:
            text = f"it takes {self.lookups} look-ups, {MOST_LOOKUPS} are allowed: receivers give up with permerror"
            self._say(self._domain, "error", [f"{text}; replace includes by the networks that you use"])
        elif self.lookups == MOST_LOOKUPS:
            self._say(
                self._domain, "warning", [f"it takes {self.lookups} look-ups, and more are not allowed"]
            )
        if self.void > MOST_VOID:
            text = f"{self.void} look-ups find nothing, {MOST_VOID} are allowed: receivers give up with permerror"
            self._say(self._domain, "error", [text])

    def _say(self, name: str, level: str, texts: Sequence[str]) -> None:
        for text in texts:
            line = _line(name, level, text)
            if line not in self.lines:
                self.lines.append(line)


def _shown(term: Term) -> str:
    return printable(term.text, 100)
