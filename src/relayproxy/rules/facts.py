"""The facts that a rule can ask about: one table, and the view of a mail that computes each of them once.

A fact is folded for comparing (lower case, A-labels); `told` has it as it was written, for texts. Must not know how
facts are compared or what follows from them.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from enum import IntEnum, StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Protocol, TypeAlias
from zoneinfo import ZoneInfo

from relayproxy.api import Direction, Mail, Recipient, to_a_label
from relayproxy.mailauth.from_header import Anomaly, parse_mailbox
from relayproxy.model.encoded_words import decode_words
from relayproxy.model.finding import RESULTS
from relayproxy.model.parts import Part, parts_of

Ip: TypeAlias = IPv4Address | IPv6Address

_TEXT = re.compile(rb"[ \t]*text/[a-z]+[ \t]*(?:;|\Z)", re.IGNORECASE)
_SIMPLE = re.compile(  # what parse_mailbox reads in the same way, at a tenth of its cost
    rb"(?: *[A-Za-z0-9]+)*[ ]*<([A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*)"
    rb"@((?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]+)> *\Z"
)


class Kind(StrEnum):
    """What a fact is, which says how it can be compared."""

    TEXT = "text"
    DOMAIN = "domain"
    ADDRESS = "address"
    IP = "ip"
    NUMBER = "number"
    SIZE = "size"
    BOOL = "boolean"
    WORD = "word"
    TIME = "time"


_FOLDED = frozenset({Kind.TEXT, Kind.DOMAIN, Kind.ADDRESS, Kind.WORD})


class Phase(IntEnum):
    """When a fact is known."""

    RCPT = 0
    MESSAGE = 1


CHECKS: Mapping[str, tuple[str, Phase]] = {
    "spf": ("spf", Phase.RCPT),
    "iprev": ("iprev", Phase.RCPT),
    "dkim": ("dkim_verify", Phase.MESSAGE),
    "arc": ("arc", Phase.MESSAGE),
    "dmarc": ("dmarc", Phase.MESSAGE),
}
"""Methods that can be written without `finding.`: the plugin that notes them, and when they are known at the latest."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One row: `many` facts have any number of values, `rcpt` ones differ between recipients.

    `words` are the values that a WORD can have; empty where only the configuration knows them.
    """

    name: str
    kind: Kind
    phase: Phase
    doc: str
    get: Callable[["Facts"], Any]
    many: bool = False
    rcpt: bool = False
    words: tuple[str, ...] = ()
    folded: bool = field(init=False)
    grows: bool = field(init=False)

    def fold(self, value: Any) -> Any:
        """Return a value as it is compared."""
        if self.many:
            return tuple([one.lower() for one in value]) if value else value
        return value.lower()

    def __post_init__(self) -> None:
        object.__setattr__(self, "folded", self.kind in _FOLDED)
        method = self.name.removeprefix("finding.").partition(".")[0]
        object.__setattr__(
            self, "grows", method == "direction" or self.name.startswith("finding.") or method in CHECKS
        )


@dataclass(frozen=True, slots=True)
class Family:
    """Facts whose names end as the admin wants: `header.list-id`. `make` reads the rest of the name."""

    prefix: str
    shape: str
    doc: str
    make: Callable[[str], Fact]


class Listed(Protocol):
    """A named list, as a fact is compared with it."""

    def holds(self, value: Any) -> bool:
        """Whether the folded value is in it."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """What facts need beside the mail: the facts that rules use by name, our domains, the lists."""

    table: Mapping[str, Fact]
    domains: frozenset[str] = frozenset()
    lists: Mapping[str, Listed] = field(default_factory=dict)
    hostname: str = ""
    growing: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        growing = tuple(name for name, fact in self.table.items() if fact.grows)
        object.__setattr__(self, "growing", growing)


class Facts(dict[str, Any]):
    """The facts of one mail, computed when first asked for; the key is the name of a fact.

    `rcpt` is the recipient that is asked about. `findings` are those noted so far; `score` and `tags` grow as rules
    add to them, `answers` holds what had to be asked elsewhere. `now` is in seconds since the epoch.
    """

    __slots__ = ("_headers", "_raw", "added", "answers", "mail", "now", "rcpt", "table", "tagged", "world")

    def __init__(self, mail: Mail, rcpt: Recipient | None, world: World, now: float) -> None:
        super().__init__()
        self.mail = mail
        self.rcpt = rcpt
        self.world = world
        self.table = world.table
        self.now = now
        self.added = 0.0
        self.tagged: list[str] = []
        self.answers: dict[Any, Any] = {}
        self._headers: dict[bytes, list[bytes]] | None = None
        self._raw: dict[str, Any] = {}

    def __missing__(self, name: str) -> Any:
        fact = self.table[name]
        value = self[name] = fact.fold(fact.get(self)) if fact.folded else fact.get(self)
        return value

    def told(self, name: str) -> Any:
        """The fact as it was written."""
        return self.table[name].get(self)

    def forget(self, name: str) -> None:
        """Compute a fact anew when it is next asked for."""
        self.pop(name, None)

    # -- header fields --------------------------------------------------------------------------------------

    @property
    def headers(self) -> dict[bytes, list[bytes]]:
        """The unfolded bodies of the fields, by name in lower case."""
        if self._headers is None:
            self._headers = _index(self.mail.message.head)
        return self._headers

    def header(self, name: bytes) -> tuple[str, ...]:
        """The values of all fields called `name` (lower case), encoded-words decoded."""
        headers = self._headers
        if headers is None:
            headers = self.headers
        raws = headers.get(name)
        return tuple([_decoded(raw) for raw in raws]) if raws is not None else ()

    def parts(self) -> tuple[Part, ...]:
        """The MIME parts."""
        found: tuple[Part, ...] | None = self._raw.get("parts")
        if found is None:
            found = self._raw["parts"] = parts_of(self.mail.message)
        return found

    def files(self) -> tuple[Part, ...]:
        """The parts that are files; most messages are plain text and need no closer look."""
        headers = self.headers
        kinds = headers.get(b"content-type")
        if b"content-disposition" not in headers and (
            kinds is None or (len(kinds) == 1 and _TEXT.match(kinds[0]) and b"name" not in kinds[0].lower())
        ):
            return ()
        return tuple(part for part in self.parts() if part.is_attachment)

    def follow(self, mail: Mail) -> None:
        """Go on with the same mail at a later hook: forget what may have become known since."""
        self.mail = mail
        self.answers.clear()
        for name in self.world.growing:
            self.pop(name, None)

    def author(self) -> tuple[str, str]:
        """Local part and domain of From; "" where From names nobody or several."""
        found: tuple[str, str] | None = self._raw.get("author")
        if found is None:
            found = "", ""
            raws = self.headers.get(b"from", ())
            if len(raws) == 1:
                simple = _SIMPLE.match(raws[0])
                if simple:
                    found = simple[1].decode(), simple[2].decode().lower()
                else:
                    with suppress(Anomaly):
                        found = parse_mailbox(raws[0])
            self._raw["author"] = found
        return found


def _index(head: bytes) -> dict[bytes, list[bytes]]:
    """Return the bodies of the fields by name; quicker than a list of all fields, which most rules don't need."""
    found: dict[bytes, list[bytes]] = {}
    for line in head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b"\t").split(b"\r\n"):
        name, colon, body = line.partition(b":")
        if colon:
            name = name.rstrip(b" \t").lower()
            if name in found:
                found[name].append(body)
            else:
                found[name] = [body]
    return found


def _decoded(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace").strip(" \t")
    return decode_words(text) if "=?" in text else text


def _display_name(facts: Facts) -> str:
    values = facts.header(b"from")
    if not values:
        return ""
    name, bracket, _ = values[0].rpartition("<")
    return " ".join(name.strip().strip('"').split()) if bracket else ""


def _from_address(facts: Facts) -> str:
    local, domain = facts.author()
    return f"{local}@{domain}" if domain else ""


def _direction(facts: Facts) -> str:
    """At RCPT that of the one recipient, as the whole message has none yet; the core has judged the client."""
    mail = facts.mail
    if mail.message.size or facts.rcpt is None:
        return mail.direction.value
    ours = _serves(facts.world.domains, facts.rcpt.address.ascii_domain)
    if mail.direction is Direction.INBOUND:
        return Direction.INBOUND.value if ours or not mail.client.trusted else Direction.OUTBOUND.value
    return Direction.INTERNAL.value if ours else Direction.OUTBOUND.value


def _serves(domains: frozenset[str], domain: str) -> bool:
    if domain in domains:
        return True
    cut = domain.find(".")
    while cut >= 0:
        if domain[cut:] in domains:
            return True
        cut = domain.find(".", cut + 1)
    return False


def _size(facts: Facts) -> int:
    return facts.mail.message.size or facts.mail.envelope.size


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Ip | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _ip(facts: Facts) -> Ip | None:
    return _parsed(facts.mail.client.ip)


def _tls(attribute: str, default: Any) -> Callable[[Facts], Any]:
    def get(facts: Facts) -> Any:
        tls = facts.mail.client.tls
        return default if tls is None else getattr(tls, attribute)

    return get


def _client(attribute: str) -> Callable[[Facts], Any]:
    return lambda facts: getattr(facts.mail.client, attribute)


def _local(facts: Facts) -> bool:
    return facts.rcpt is not None and _serves(facts.world.domains, facts.rcpt.address.ascii_domain)


def _named(pick: Callable[[Part], str]) -> Callable[[Facts], tuple[str, ...]]:
    return lambda facts: tuple([text for part in facts.files() if (text := pick(part))])


def _attachments(facts: Facts) -> int:
    return len(facts.files())


def zone_of(name: str) -> tzinfo:
    """Return a time zone by its IANA name. Raises ZoneInfoNotFoundError and ValueError."""
    return UTC if name.upper() == "UTC" else ZoneInfo(name)


def clock(facts: Facts, zone: tzinfo) -> datetime:
    """Return the time of the message in a zone."""
    return datetime.fromtimestamp(facts.now, zone)


WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_R, _M = Phase.RCPT, Phase.MESSAGE
_DIRECTIONS = tuple(direction.value for direction in Direction)

_ROWS = (
    Fact("client.ip", Kind.IP, _R, "the client's address", _ip),
    Fact("client.port", Kind.NUMBER, _R, "the client's port", _client("port")),
    Fact("client.ptr", Kind.DOMAIN, _R, "the client's verified reverse name, or empty", _client("ptr")),
    Fact("client.helo", Kind.DOMAIN, _R, "the name given at EHLO or HELO", _client("helo")),
    Fact("client.login", Kind.TEXT, _R, "the login, or empty", _client("identity")),
    Fact(
        "client.authenticated",
        Kind.BOOL,
        _R,
        "whether the client has logged in",
        lambda f: bool(f.mail.client.identity),
    ),
    Fact("client.trusted", Kind.BOOL, _R, "whether the client may relay anywhere", _client("trusted")),
    Fact("client.proto", Kind.WORD, _R, "the protocol", _client("proto"), words=("smtp", "esmtp", "lmtp")),
    Fact(
        "client.tls",
        Kind.BOOL,
        _R,
        "whether the connection is encrypted",
        lambda f: f.mail.client.tls is not None,
    ),
    Fact(
        "client.tls_version", Kind.TEXT, _R, "the TLS version, such as TLSv1.3, or empty", _tls("version", "")
    ),
    Fact("client.tls_cipher", Kind.TEXT, _R, "the TLS cipher, or empty", _tls("cipher", "")),
    Fact("client.tls_bits", Kind.NUMBER, _R, "the bits of the TLS key, 0 without TLS", _tls("bits", 0)),
    Fact(
        "client.certificate_verified",
        Kind.BOOL,
        _R,
        "whether the client showed a certificate of one of our CAs",
        _tls("verified", False),
    ),
    Fact("client.certificate_subject", Kind.TEXT, _R, "whom that certificate names", _tls("subject", "")),
    Fact("listener", Kind.WORD, _R, "the name of the listener", _client("listener")),
    Fact(
        "direction",
        Kind.WORD,
        _R,
        "inbound: a stranger to our domains; outbound: a trusted client to elsewhere; internal: to our own",
        _direction,
        rcpt=True,
        words=_DIRECTIONS,
    ),
    Fact(
        "sender",
        Kind.ADDRESS,
        _R,
        "the envelope sender; <> is the null sender",
        lambda f: f.mail.envelope.sender.key,
    ),
    Fact("sender.domain", Kind.DOMAIN, _R, "its domain", lambda f: f.mail.envelope.sender.ascii_domain),
    Fact("sender.local", Kind.TEXT, _R, "what stands before its @", lambda f: f.mail.envelope.sender.local),
    Fact(
        "recipient",
        Kind.ADDRESS,
        _R,
        "the recipient; each is asked about on its own",
        lambda f: f.rcpt.address.key if f.rcpt else "",
        rcpt=True,
    ),
    Fact(
        "recipient.domain",
        Kind.DOMAIN,
        _R,
        "its domain",
        lambda f: f.rcpt.address.ascii_domain if f.rcpt else "",
        rcpt=True,
    ),
    Fact(
        "recipient.local",
        Kind.TEXT,
        _R,
        "what stands before its @",
        lambda f: f.rcpt.address.local if f.rcpt else "",
        rcpt=True,
    ),
    Fact("recipient.is_local", Kind.BOOL, _R, "whether its domain is in relay.domains", _local, rcpt=True),
    Fact(
        "recipients.count",
        Kind.NUMBER,
        _M,
        "how many recipients there are",
        lambda f: len(f.mail.envelope.recipients),
    ),
    Fact("size", Kind.SIZE, _M, "octets of the message", _size),
    Fact(
        "declared_size",
        Kind.SIZE,
        _R,
        "octets as declared at MAIL (SIZE=), or 0",
        lambda f: f.mail.envelope.size,
    ),
    Fact(
        "subject", Kind.TEXT, _M, "the first subject, decoded", lambda f: (f.header(b"subject") or ("",))[0]
    ),
    Fact(
        "from", Kind.ADDRESS, _M, "the address in From; empty where it names nobody or several", _from_address
    ),
    Fact("from.domain", Kind.DOMAIN, _M, "its domain", lambda f: f.author()[1]),
    Fact("from.name", Kind.TEXT, _M, "the display name in From, decoded", _display_name),
    Fact("score", Kind.NUMBER, _M, "the sum of all scores so far", lambda f: f.mail.score + f.added),
    Fact(
        "tags",
        Kind.TEXT,
        _M,
        "what rules before this one have tagged the message with",
        lambda f: tuple(f.tagged),
        many=True,
    ),
    Fact("attachments.count", Kind.NUMBER, _M, "how many parts are files", _attachments),
    Fact(
        "attachment.name", Kind.TEXT, _M, "the names of the files in it", _named(lambda p: p.name), many=True
    ),
    Fact(
        "attachment.extension",
        Kind.TEXT,
        _M,
        "what follows the last dot of those names",
        _named(lambda p: p.extension),
        many=True,
    ),
    Fact(
        "attachment.type", Kind.TEXT, _M, "the media types of the files", _named(lambda p: p.type), many=True
    ),
    Fact(
        "part.type",
        Kind.TEXT,
        _M,
        "the media types of all parts",
        lambda f: tuple(p.type for p in f.parts()),
        many=True,
    ),
    Fact(
        "time",
        Kind.TIME,
        _R,
        "the time of day, in UTC unless a zone is given",
        lambda f: f"{clock(f, UTC):%H:%M}",
    ),
    Fact(
        "weekday",
        Kind.WORD,
        _R,
        "the day of the week, in UTC unless a zone is given",
        lambda f: WEEKDAYS[clock(f, UTC).weekday()],
        words=WEEKDAYS,
    ),
)

FACTS: Mapping[str, Fact] = {row.name: row for row in _ROWS}
"""All facts with a fixed name."""


def _header(rest: str) -> Fact:
    name = rest.lower().encode()
    return Fact(f"header.{rest.lower()}", Kind.TEXT, _M, "", lambda f: f.header(name), many=True)


def _first_header(rest: str) -> Fact:
    name = rest.lower().encode()
    return Fact(f"first_header.{rest.lower()}", Kind.TEXT, _M, "", lambda f: (f.header(name) or ("",))[0])


def _header_count(rest: str) -> Fact:
    name = rest.lower().encode()
    return Fact(f"header_count.{rest.lower()}", Kind.NUMBER, _M, "", lambda f: len(f.headers.get(name, ())))


def _finding(rest: str) -> Fact:
    return finding_fact(f"finding.{rest}", rest)


def finding_fact(name: str, rest: str) -> Fact:
    """Return the fact about findings: METHOD its results, METHOD.score, METHOD.reason, METHOD.by, METHOD.PROPERTY."""
    method, _, prop = rest.partition(".")
    phase = CHECKS[method][1] if method in CHECKS else _M
    if not prop:
        return Fact(
            name,
            Kind.WORD,
            phase,
            "",
            lambda f: tuple(x.result for x in f.mail.findings if x.method == method),
            many=True,
            words=tuple(sorted(RESULTS)),
        )
    if prop == "score":
        return Fact(
            name,
            Kind.NUMBER,
            phase,
            "",
            lambda f: sum(x.score for x in f.mail.findings if x.method == method),
        )
    if prop in ("reason", "by"):
        return Fact(
            name,
            Kind.TEXT,
            phase,
            "",
            lambda f: tuple(getattr(x, prop) for x in f.mail.findings if x.method == method),
            many=True,
        )
    return Fact(
        name,
        Kind.TEXT,
        phase,
        "",
        lambda f: tuple(x.props[prop] for x in f.mail.findings if x.method == method and prop in x.props),
        many=True,
    )


FAMILIES: tuple[Family, ...] = (
    Family(
        "header.", "header.NAME", "every header field called NAME, decoded; one that fits is enough", _header
    ),
    Family("first_header.", "first_header.NAME", "the topmost field called NAME, or empty", _first_header),
    Family("header_count.", "header_count.NAME", "how many fields are called NAME", _header_count),
    Family(
        "finding.",
        "finding.METHOD",
        "the results of a plugin's findings; also .score, .reason, .by and any property, as finding.dkim.header.d",
        _finding,
    ),
)


def fact_named(name: str) -> Fact | None:
    """Return the fact of that name, also of a family or a check, or None."""
    fact = FACTS.get(name)
    if fact is not None:
        return fact
    for family in FAMILIES:
        rest = name.removeprefix(family.prefix)
        if rest and rest != name and rest.isprintable() and " " not in rest:
            return family.make(rest)
    method, dot, prop = name.partition(".")
    if method in CHECKS and (prop or not dot):
        return finding_fact(name, name)
    return None


def a_label(domain: str) -> str:
    """Return a domain as facts have it."""
    return to_a_label(domain.rstrip("."))
