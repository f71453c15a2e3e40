"""The table of facts: every row, the families whose names end as the admin wants, and where a name leads.

Each row says how a fact is got from the view of a mail. Must not know how facts are compared.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from ipaddress import ip_address
from typing import Any
from zoneinfo import ZoneInfo

from relayproxy.api import Direction
from relayproxy.model.file_names import extensions_of
from relayproxy.model.finding import RESULTS
from relayproxy.model.mime import Oddity
from relayproxy.rules.facts import CHECKS, Fact, Facts, Family, Ip, Kind, Phase, decoded


def _display_name(facts: Facts) -> str:
    raws = facts.fields(b"from")
    return _shown_name(raws[0]) if raws else ""


@lru_cache(maxsize=2000)
def _shown_name(raw: bytes) -> str:
    """Most senders write again."""
    name, bracket, _ = decoded(raw).rpartition("<")
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


def _names(facts: Facts) -> tuple[str, ...]:
    """By every reading: readers disagree about odd parameters."""
    return tuple([name for part in facts.files() for name in part.described.names])


def _extensions(facts: Facts) -> tuple[str, ...]:
    return tuple(sorted({extension for name in _names(facts) for extension in extensions_of(name)}))


def _types(facts: Facts) -> tuple[str, ...]:
    plain = facts.plain()
    return (plain,) if plain else tuple([part.type for part in facts.tree().root.leaves()])


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
_MIME = (b"content-type", b"content-disposition", b"content-transfer-encoding")
_DIRECTIONS = tuple(direction.value for direction in Direction)

_ROWS = (
    Fact("client.ip", Kind.IP, _R, "the client's address", _ip),
    Fact("client.port", Kind.NUMBER, _R, "the client's port", _client("port")),
    Fact(
        "client.ptr",
        Kind.DOMAIN,
        _R,
        "the client's verified reverse name, or empty",
        _client("ptr"),
    ),
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
    Fact(
        "sender.domain",
        Kind.DOMAIN,
        _R,
        "its domain",
        lambda f: f.mail.envelope.sender.ascii_domain,
    ),
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
        "subject",
        Kind.TEXT,
        _M,
        "the first subject, decoded",
        lambda f: (f.header(b"subject") or ("",))[0],
        fields=(b"subject",),
    ),
    Fact(
        "from",
        Kind.ADDRESS,
        _M,
        "the address in From; empty where it names nobody or several",
        _from_address,
        fields=(b"from",),
    ),
    Fact("from.domain", Kind.DOMAIN, _M, "its domain", lambda f: f.author()[1], fields=(b"from",)),
    Fact("from.name", Kind.TEXT, _M, "the display name in From, decoded", _display_name, fields=(b"from",)),
    Fact("score", Kind.NUMBER, _M, "the sum of all scores so far", lambda f: f.mail.score + f.added),
    Fact(
        "tags",
        Kind.TEXT,
        _M,
        "what rules before this one have tagged the message with",
        lambda f: tuple(f.tagged),
        many=True,
    ),
    Fact("attachments.count", Kind.NUMBER, _M, "how many parts are files", _attachments, fields=_MIME),
    Fact(
        "attachment.name",
        Kind.TEXT,
        _M,
        "the names of the files in it, by every reading of them",
        _names,
        many=True,
        fields=_MIME,
    ),
    Fact(
        "attachment.extension",
        Kind.TEXT,
        _M,
        "what a system may see behind the last dot of those names",
        _extensions,
        many=True,
        fields=_MIME,
    ),
    Fact(
        "attachment.type",
        Kind.TEXT,
        _M,
        "the media types of the files",
        lambda f: tuple([p.type for p in f.files()]),
        many=True,
        fields=_MIME,
    ),
    Fact(
        "part.type",
        Kind.TEXT,
        _M,
        "the media types of all parts",
        _types,
        many=True,
        fields=_MIME,
    ),
    Fact(
        "mime.oddity",
        Kind.WORD,
        _M,
        "what is broken in the structure of its parts",
        lambda f: () if f.plain() else tuple(sorted(f.tree().oddities)),
        many=True,
        words=tuple(sorted(Oddity)),
        fields=_MIME,
    ),
    Fact(
        "mime.unseen",
        Kind.BOOL,
        _M,
        "whether something may be in it that is too large, too deep or too broken to be seen",
        lambda f: not f.plain() and f.tree().unseen,
        fields=_MIME,
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
    return Fact(
        f"header.{rest.lower()}", Kind.TEXT, _M, "", lambda f: f.header(name), many=True, fields=(name,)
    )


def _first_header(rest: str) -> Fact:
    name = rest.lower().encode()
    return Fact(
        f"first_header.{rest.lower()}",
        Kind.TEXT,
        _M,
        "",
        lambda f: (f.header(name) or ("",))[0],
        fields=(name,),
    )


def _header_count(rest: str) -> Fact:
    name = rest.lower().encode()
    return Fact(
        f"header_count.{rest.lower()}", Kind.NUMBER, _M, "", lambda f: len(f.fields(name)), fields=(name,)
    )


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
            lambda f: tuple([x.result for x in f.mail.findings if x.method == method]),
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
