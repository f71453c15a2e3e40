"""The terms of an SPF record (RFC 7208 sections 4.6 and 12), read to be judged rather than evaluated.

The evaluation of a client is mailauth.spf's; it stops at the first match and at the first mistake. This reads all
terms and says what is wrong with each. Must not know DNS.
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

LOOKUPS = frozenset({"include", "a", "mx", "ptr", "exists", "redirect"})
"""The terms that cost one of the ten look-ups."""

_TERM = re.compile(r"([+?~-]?)([A-Za-z][A-Za-z0-9_.-]*)(?:([:=/])(.*))?\Z", re.DOTALL)
_VERSION = re.compile(rb"v=spf1(?: |\Z)", re.IGNORECASE)
_PREFIX = re.compile(r"(?P<domain>.*?)(?:/(?P<v4>[0-9]{1,3}))?(?://(?P<v6>[0-9]{1,3}))?\Z")
_MACRO = re.compile(r"%(?:[%_-]|\{[slodiphcrtv][0-9]*r?[.+,/_=-]*\})", re.IGNORECASE)
_DOMAIN = re.compile(r"(?:[^.]+\.)+(?=[A-Za-z0-9-]*[A-Za-z-])[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.?\Z")
_VISIBLE = re.compile(r"[!-~]*\Z")


@dataclass(frozen=True, slots=True)
class Term:
    """A directive or modifier: `qualifier` is "+", "-", "~" or "?" ("" for a modifier), `name` in lower case.

    `domain` is the domain-spec, "" where there is none; `length` the prefix length of an IPv4 or IPv6 address,
    None for a whole address. `fault` says what is wrong with the term.
    """

    text: str
    name: str = ""
    qualifier: str = ""
    domain: str = ""
    address: str = ""
    length: int | None = None
    fault: str = ""

    @property
    def literal(self) -> str:
        """The domain where it is the same for every message, "" if it has macros."""
        return "" if "%" in self.domain else self.domain.rstrip(".").lower()


def is_record(text: bytes) -> bool:
    """Whether a TXT record is an SPF record (section 4.5)."""
    return bool(_VERSION.match(text))


def read_terms(text: bytes) -> list[Term]:
    """Return all terms of a record, those that are none with a fault."""
    terms = text.decode("latin-1").split(" ")[1:]
    return [_read(term) for term in terms if term]


def _read(text: str) -> Term:
    found = _TERM.match(text)
    if found is None or not _VISIBLE.match(text):
        return Term(text, fault="is no term")
    qualifier, name, mark, value = found[1], found[2].lower(), found[3] or "", found[4] or ""
    if mark == "=":
        return _modifier(text, qualifier, name, value)
    reader = _MECHANISMS.get(name)
    if reader is None:
        return Term(text, fault="is no mechanism")
    term: Term = reader(text, name, qualifier or "+", mark, value)
    return term


def _modifier(text: str, qualifier: str, name: str, value: str) -> Term:
    if qualifier:
        return Term(text, name, fault="is no term: a modifier takes no qualifier")
    if name in ("redirect", "exp"):
        return Term(text, name, "", value, fault=_domain_fault(value) or ("" if value else "names no domain"))
    return Term(text, name, "", value)


def _all(text: str, name: str, qualifier: str, mark: str, _value: str) -> Term:
    return Term(text, name, qualifier, fault="takes no argument" if mark else "")


def _named(text: str, name: str, qualifier: str, mark: str, value: str) -> Term:
    fault = _domain_fault(value) if mark == ":" and value else "names no domain"
    return Term(text, name, qualifier, value, fault=fault)


def _ptr(text: str, name: str, qualifier: str, mark: str, value: str) -> Term:
    return _named(text, name, qualifier, mark, value) if mark else Term(text, name, qualifier)


def _host(text: str, name: str, qualifier: str, mark: str, value: str) -> Term:
    found = _PREFIX.match(value if mark == ":" else mark + value)
    assert found is not None  # every part of it is optional
    domain = found["domain"]
    fault = "names no domain" if mark == ":" and not domain else _domain_fault(domain) if domain else ""
    if int(found["v4"] or 0) > 32 or int(found["v6"] or 0) > 128:
        fault = "has a prefix length that is none"
    return Term(text, name, qualifier, domain, length=int(found["v4"]) if found["v4"] else None, fault=fault)


def _network(text: str, name: str, qualifier: str, mark: str, value: str) -> Term:
    address, slash, length = value.partition("/")
    kind, most = (IPv4Address, 32) if name == "ip4" else (IPv6Address, 128)
    try:
        kind(address)
    except AddressValueError:
        return Term(text, name, qualifier, fault="is no address")
    if mark != ":":
        return Term(text, name, qualifier, fault="is no address")
    if slash and not (length.isascii() and length.isdigit() and len(length) < 4 and int(length) <= most):
        return Term(text, name, qualifier, address=address, fault="has a prefix length that is none")
    return Term(text, name, qualifier, address=address, length=int(length) if slash else None)


_MECHANISMS = {
    "all": _all,
    "include": _named,
    "exists": _named,
    "a": _host,
    "mx": _host,
    "ptr": _ptr,
    "ip4": _network,
    "ip6": _network,
}


def _domain_fault(domain: str) -> str:
    """Return what keeps a text from being a domain-spec (section 7.1)."""
    if "%" in _MACRO.sub("", domain):
        return "has a macro that is none"
    ends_in_macro = _MACRO.sub("%", domain).endswith("%")
    plain = _MACRO.sub("m", domain)
    return "" if ends_in_macro or ("/" not in plain and _DOMAIN.match(plain)) else "names no domain"
