"""SPF (RFC 7208): whether a client may use a domain in MAIL FROM or HELO.

The evaluation is pyspf's; its DNS is not. It runs over the answers that are known, and stops where one is
missing; what it misses (and will miss next) is fetched in one batch, and it runs again. So no evaluation ever
waits, and a dict is its test double. What the same answers led to once is not evaluated again. The one module that
imports `spf`. Must not decide anything.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, SupportsIndex, TypeAlias

import spf

from relayproxy.mailauth.lookup import Answer, Fetch, Memory, Peek, Question
from relayproxy.model.address import Address, to_a_label
from relayproxy.model.reply import printable

_RECORD_ROOM = 8192  # octets; RFC 7208 section 3.4 asks for less than 512
_MACROS = 64  # each of them may expand to 320 characters, in every round
_EXPLANATION_ROOM = 200
_GUESSES = 20  # questions of a check that may turn out not to have been needed
_NETWORKS = {"in-addr": ("ip4", "a", "mx"), "ip6": ("ip6", "a", "mx")}  # by pyspf's names of the families
_WIDE = {"in-addr": 8, "ip6": 16}

Term: TypeAlias = tuple[str, str, str, int, str]
"""A directive as pyspf reads it: its text, mechanism, domain or address, prefix length and result."""

_LITERAL_TERM = re.compile(
    r"(?:\A| )[+?~-]?(include|redirect|a|mx)(?:[:=]([^ %/]+))?(?:/[0-9/]*)?(?= |\Z)", re.IGNORECASE
)
_DOMAIN = re.compile(r"[!-~]{1,253}\Z")
# What pyspf trips over on odd records; all of it is the record's fault.
_STUMBLES = (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError)


@dataclass(frozen=True, slots=True)
class SpfResult:
    """The result for one identity: a word of RFC 7208 section 2.6, and what it rests on.

    `domain` is the domain checked, in A-labels. `mechanism` is the directive that matched. `explanation` is the
    domain owner's own text on a fail, made printable and short, and still the words of a stranger. `weak` names
    what makes a pass worth little, such as "+all". `lookups` are the terms that cost a look-up, of ten allowed.
    """

    result: str
    domain: str
    mechanism: str = ""
    reason: str = ""
    explanation: str = ""
    weak: tuple[str, ...] = ()
    lookups: int = 0


class Spf:
    """Checks for one client, over what `fetch` brings; `peek` gives answers that need no fetching.

    `ip` is the client's address, `helo` its EHLO name, `receiver` our own name and `now` seconds since the epoch
    (both for macros of explanations). The identities of a client share what was looked up, and all checks with one
    `memory` share results, as long as `peek` gives the answers that they rest on. Raises ValueError if `ip` is no address.
    """

    def __init__(
        self,
        ip: str,
        helo: str,
        fetch: Fetch,
        *,
        peek: Peek | None = None,
        memory: Memory[SpfResult] | None = None,
        receiver: str = "",
        now: float = 0,
    ) -> None:
        self._ip = _canonical(ip)
        self._helo = helo
        self._fetch = fetch
        self._known = _Known(peek)
        self._memory = memory
        self._peek = peek
        self._receiver = receiver
        self._now = now

    async def check_helo(self) -> SpfResult:
        """Check the HELO identity (RFC 7208 section 2.3), which is also MAIL FROM of the null sender."""
        return await self._check("postmaster", to_a_label(self._helo).removesuffix("."))

    async def check_mail_from(self, sender: Address) -> SpfResult:
        """Check the MAIL FROM identity (RFC 7208 section 2.4); for the null sender it is postmaster@HELO."""
        if not sender:
            return await self.check_helo()
        return await self._check(sender.local or "postmaster", sender.ascii_domain.removesuffix("."))

    async def _check(self, local: str, domain: str) -> SpfResult:
        # RFC 7208 section 4.3: a malformed domain, a literal and a single label have no record.
        if "." not in domain or domain.startswith("[") or not _DOMAIN.match(domain):
            return SpfResult("none", domain, reason="the domain is no fully qualified name")
        key = self._ip, domain
        if self._memory is not None and self._peek is not None:
            remembered = self._memory.find(key, self._peek)
            if remembered is not None:
                return remembered
        while True:  # every round learns an answer, and the RFC's limits bound what an evaluation can ask
            query = _Query(self._known, self._ip, self._helo)
            query.set_sender(local, domain, self._receiver, self._now)
            result = query.run(domain)
            if result is not None:
                if self._memory is not None and not query.has_macros:
                    # A macro may stand for the local part, the HELO name, the time: then it depends on more.
                    self._memory.keep(key, result, query.used)
                return result
            wanted = query.wanted()
            self._known.learn(wanted, await self._fetch(wanted))


class _Known:
    """The answers that an evaluation can use, and the terms that it has read in earlier rounds."""

    def __init__(self, peek: Peek | None) -> None:
        self.terms: dict[tuple[str, str], Term] = {}
        self.guesses = _GUESSES
        self._answers: dict[Question, Answer] = {}
        self._peek = peek

    def find(self, question: Question) -> Answer | None:
        """Return the answer; once seen it stays the same for the whole check."""
        answer = self._answers.get(question)
        if answer is None and self._peek is not None:
            answer = self._peek(*question)
            if answer is not None:
                self._answers[question] = answer
        return answer

    def learn(self, questions: Iterable[Question], answers: Iterable[Answer]) -> None:
        self._answers.update(zip(questions, answers, strict=True))


class _MissingError(Exception):
    """An answer that is not known yet."""


class _Query(spf.query):  # type: ignore[misc]  # pyspf has no types
    """pyspf's evaluator with its DNS taken out.

    An attribute with a name of one letter is the value of that macro; none must be added here.
    """

    def __init__(self, known: _Known, ip: str, helo: str) -> None:
        super().__init__(i=ip, s="", h=helo, strict=True)
        self._found = known
        self._missing: list[Question] = []
        self._next: list[Question] = []
        self._guessed: list[Question] = []
        self._weak: dict[str, None] = {}
        self._depth = 0
        self._explain: tuple[str, str] | None = None
        self.used: dict[Question, Answer] = {}
        self.has_macros = False

    def set_sender(self, local: str, domain: str, receiver: str, now: float) -> None:
        """Set the macros; pyspf's own way would cut a quoted local part at its "@"."""
        self.s, self.l, self.o, self.d = f"{local}@{domain}", local, domain, domain
        self.r, self.t = receiver or "unknown", str(int(now))

    def run(self, domain: str) -> SpfResult | None:
        """Evaluate; None if an answer is missing."""
        try:
            result, _, text = self.check()
            explanation = self._explanation() if result == "fail" else ""
        except _MissingError:
            return None
        except _STUMBLES as error:
            return SpfResult(
                "permerror", domain, reason=f"the record can't be evaluated ({type(error).__name__})"
            )
        failed = result in ("permerror", "temperror")
        return SpfResult(
            result,
            domain,
            mechanism=printable(self.mechanism or "", 253),
            reason=printable(text.rpartition("Error: ")[2], 253) if failed else "",
            explanation=explanation,
            weak=tuple(self._weak) if result == "pass" else (),
            lookups=self.lookups,
        )

    def wanted(self) -> list[Question]:
        """Return what is missing, what will be missing next for certain, and what probably will."""
        sure = dict.fromkeys([*self._missing, *self._next])
        wanted = [question for question in sure if self._found.find(question) is None]
        guessed = [q for q in dict.fromkeys(self._guessed) if q not in sure and self._found.find(q) is None]
        guessed = guessed[: self._found.guesses]
        self._found.guesses -= len(guessed)
        return wanted + guessed

    def dns(
        self,
        name: str,
        qtype: str,
        cnames: object = None,  # noqa: ARG002  (pyspf's signature; a resolver follows aliases by itself)
        ignore_void: bool = False,
    ) -> list[Any]:
        """Answer from what is known (pyspf's one door to DNS). An empty answer counts as void, as it does there."""
        name = name.removesuffix(".").lower()
        if not name.isascii() or not all(0 < len(label) < 64 for label in name.split(".")):
            return []  # RFC 8616 section 4: a local part that is not ASCII matches nothing
        answer = self._found.find((name, qtype))
        if answer is None:
            self._missing.append((name, qtype))
            raise _MissingError
        self.used[name, qtype] = answer
        if answer.failed:
            raise spf.TempError(f"DNS {answer.status.value} for {qtype} of {name}")
        if not answer.records and not ignore_void:
            self.void_lookups += 1
            if self.void_lookups > spf.MAX_VOID_LOOKUPS:
                raise spf.PermError(f"Void lookup limit of {spf.MAX_VOID_LOOKUPS} exceeded")
        match qtype:
            case "TXT":
                self.has_macros = self.has_macros or any(b"%" in record for record in answer.records)
                return [(record,) for record in answer.records]
            case "MX":
                self._next += [(host.lower(), self.A) for _, host in answer.records[: spf.MAX_MX] if host]
            case "PTR":
                self._next += [(host.lower(), self.A) for host in answer.records[: spf.MAX_PTR] if host]
        return list(answer.records)

    def dns_spf(self, domain: str) -> str | None:
        """Return the record of `domain`, noting what its terms will ask for."""
        record: str | None = super().dns_spf(domain)
        if record is None:
            return None
        if len(record) > _RECORD_ROOM or record.count("%") > _MACROS:
            raise spf.PermError("The record is too long")
        for kind, target in _LITERAL_TERM.findall(record):
            name = (target or domain).removesuffix(".").lower()
            rdtypes = {"a": self.A, "mx": "MX"}
            self._guessed.append((name, rdtypes.get(kind.lower(), "TXT")))
        return record

    def check1(self, record: str | None, domain: str, recursion: int) -> object:
        """Keep count of the depth: only the explanation of the outermost record (RFC 7208 section 6.2) counts."""
        outer, self._depth = self._depth, recursion
        if not recursion:
            self._explain = None  # redirect= leads to another record with its own
        try:
            return super().check1(record, domain, recursion)
        finally:
            self._depth = outer

    def get_explanation(self, spec: str) -> None:
        """Note where the explanation is; it is fetched only if the result is a fail."""
        if not self._depth:
            self._explain = spec, self.d

    def _explanation(self) -> str:
        if self._explain is None:
            return ""
        spec, self.d = self._explain
        try:
            text = super().get_explanation(spec)
        except (spf.TempError, spf.PermError):
            return ""
        return printable(text or "", _EXPLANATION_ROOM)

    def validated_ptrs(self) -> list[str]:
        """Return the names that lead back to the client; DNS errors skip a name (RFC 7208 section 5.5)."""
        try:
            names = self.dns_ptr(self.i)[: spf.MAX_PTR]
        except spf.TempError:
            return []
        return [name for name in names if self._leads_back(name)]

    def _leads_back(self, name: str) -> bool:
        try:
            # Not counted as void: whoever has the address could fill its reverse zone with names that lead
            # nowhere, and turn the fail of somebody's record into a permerror.
            return self.cidrmatch(self.dns(name, self.A, ignore_void=True), self.cidrmax)
        except spf.TempError:
            return False

    def cidrmatch(self, addresses: Iterable[str], length: int) -> bool:
        """Whether the client is in the network of that prefix length round one of `addresses`."""
        try:
            return any(self.ipaddr in _network(address, length) for address in addresses)
        except ValueError as error:
            raise spf.PermError(str(error)) from error

    def validate_mechanism(self, mech: str) -> Term:
        """Read a directive, once for all rounds, and note those that let too much pass."""
        key = mech, self.d
        read = self._found.terms.get(key)
        if read is None:
            read = super().validate_mechanism(mech)
            if "%" not in mech:
                self._found.terms[key] = read
        _, mechanism, _, length, result = read
        if result == "pass":
            if mechanism in ("all", "ptr"):
                self._weak[f"+{mechanism}"] = None
            elif mechanism in _NETWORKS[self.v] and length < _WIDE[self.v]:
                self._weak[f"{mechanism}/{length}"] = None
        return read

    def expand(self, text: str, stripdot: bool = True) -> str:
        """Expand macros (RFC 7208 section 7)."""
        if text.count("%") > _MACROS:
            raise spf.PermError("There are too many macros")
        expanded: str = super().expand(_OneLabel(text), stripdot)
        return expanded


@lru_cache(1024)
def _canonical(ip: str) -> str:
    return str(ip_address(ip))


@lru_cache(4096)
def _network(address: str, length: int) -> IPv4Network | IPv6Network:
    """Most of what evaluating a record costs, and the same few records come again and again."""
    return ip_network(address).supernet(new_prefix=length)


class _OneLabel(str):
    """A text that pyspf checks for bad macros once; it would search all of it again for each label."""

    __slots__ = ()

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:  # noqa: ARG002  (str's shape)
        return [self]
