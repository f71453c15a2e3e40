"""Mail addresses as values (RFC 5321 section 4.1.2, RFC 6531).

Knows how an address is written and compared. Must not know where it came from or whether it exists.
"""

from dataclasses import dataclass

import idna

_LONGEST = 512  # characters of a domain that are looked at; names have 253 octets at most


def to_a_label(domain: str) -> str:
    """Return `domain` lower-cased and in A-label form (RFC 5890); the input lower-cased if it has none, or is too long."""
    if domain.isascii() or len(domain) > _LONGEST:
        return domain.lower()
    try:
        return idna.encode(domain, uts46=True, transitional=False).decode("ascii").lower()
    except idna.IDNAError:
        return domain.lower()


def domain_in(domain: str, names: frozenset[str]) -> bool:
    """Whether `domain` is in `names`, or below a name that is written with a leading dot."""
    if domain in names:
        return True
    while (cut := domain.find(".")) >= 0:
        if domain[cut:] in names:
            return True
        domain = domain[cut + 1 :]
    return False


@dataclass(frozen=True, slots=True)
class Address:
    """One mailbox as it stood in the envelope: `local` keeps its quotes, `domain` its case and form.

    The null sender `<>` is `Address("", "")` and is false. A bare `<postmaster>` has an empty domain.
    """

    local: str
    domain: str

    def __bool__(self) -> bool:
        return bool(self.local or self.domain)

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}" if self.domain else self.local

    @property
    def ascii_domain(self) -> str:
        """The domain as it is looked up and compared: lower case, A-labels."""
        return to_a_label(self.domain)

    @property
    def is_literal(self) -> bool:
        """Whether the domain is an address literal such as `[192.0.2.1]` (RFC 5321 section 4.1.3)."""
        return self.domain.startswith("[")

    @property
    def needs_utf8(self) -> bool:
        """Whether only SMTPUTF8 can carry this address as it is (RFC 6531 section 3.3)."""
        return not (self.local.isascii() and self.domain.isascii())

    @property
    def key(self) -> str:
        """A form for comparing: the domain folded, the local part left alone (RFC 5321 section 2.4)."""
        return f"{self.local}@{self.ascii_domain}" if self.domain else self.local


NULL_SENDER = Address("", "")
