"""require_tls: mail that may only arrive over an encrypted connection.

Judges the connection between the client and us by the facts in `client.tls`. Must not know how TLS is started,
nor what happens towards the next hop (RFC 8689 and the upstream's own TLS policy are the core's).
"""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from relayproxy.api import (
    Address,
    Mail,
    Mistake,
    Opinion,
    Plugin,
    Recipient,
    Settings,
    Setup,
    TlsInfo,
    Verdict,
    hook,
    printable,
    reject,
    to_a_label,
)

_VERSION = re.compile(r"TLSv(\d+)(?:\.(\d+))?\Z")
_LABELS = re.compile(r"\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def _written_version(value: object) -> object:
    """Take the YAML number 1.3 for what it looks like."""
    return str(value) if isinstance(value, float) else value


def _domain_pattern(text: str) -> str:
    pattern = to_a_label(text.rstrip("."))
    if not _LABELS.match(pattern):
        hint = "; for all its subdomains write .example.org" if "*" in text else ""
        raise ValueError(f"{text!r} is not a domain{hint}")
    return pattern


def _fingerprint(text: str) -> str:
    digits = text.replace(":", "").lower()
    if not _SHA256.match(digits):
        raise ValueError("a fingerprint is a SHA-256 digest: 64 hexadecimal digits, with or without colons")
    return digits


DomainPattern = Annotated[str, AfterValidator(_domain_pattern)]
Fingerprint = Annotated[str, AfterValidator(_fingerprint)]
TlsVersion = Annotated[
    Literal["1.2", "1.3"],
    BeforeValidator(_written_version),
    WithJsonSchema({"enum": [1.2, 1.3, "1.2", "1.3"]}),
]


class Requirement(Settings):
    """What is asked of the connection, and of which mail. Every scope that is left out takes in all mail."""

    listeners: tuple[str, ...] = ()
    """Names of listeners."""
    sender_domains: tuple[DomainPattern, ...] = ()
    """Domains of the envelope sender: `example.org` itself, `.example.org` for all its subdomains."""
    recipient_domains: tuple[DomainPattern, ...] = ()
    """Domains of the recipient, written as above. With this, each recipient is judged on its own."""
    min_version: TlsVersion = "1.2"
    """The oldest TLS version that will do: 1.2 or 1.3."""
    client_certificate: bool = False
    """Whether the client must show a certificate that a CA of the listener vouches for."""
    fingerprints: tuple[Fingerprint, ...] = ()
    """SHA-256 fingerprints of the client certificates that will do."""


class RequireTlsSettings(Settings):
    """The requirements; the first one that is not met refuses."""

    requirements: tuple[Requirement, ...] = Field(default=(Requirement(),), min_length=1)
    """Left out: one requirement, TLS 1.2 for all mail."""


class RequireTls(Plugin[RequireTlsSettings]):
    """Refuse mail at MAIL where the sender decides, at RCPT where the recipient does."""

    name = "require_tls"
    settings = RequireTlsSettings
    after = ()

    def check(self, setup: Setup) -> Iterator[Mistake]:
        """A requirement of a listener that there isn't would never be made."""
        for number, requirement in enumerate(self.options.requirements):
            for place, name in enumerate(requirement.listeners):
                if name not in setup.listeners:
                    hint = f"there is {', '.join(sorted(setup.listeners))}"
                    at = ("requirements", number, "listeners", place)
                    yield Mistake(f"there is no listener '{name}'", at, hint)

    @hook
    def mail(self, mail: Mail) -> Opinion:
        """Judge what is known before any recipient."""
        return self._refusal(mail, None)

    @hook
    def rcpt(self, mail: Mail, rcpt: Recipient) -> Opinion:
        """Judge the requirements that name this recipient's domain."""
        return self._refusal(mail, rcpt.address)

    def _refusal(self, mail: Mail, rcpt: Address | None) -> Opinion:
        for number, requirement in enumerate(self.options.requirements, 1):
            if _in_scope(requirement, mail, rcpt):
                unmet = _unmet(requirement, mail.client.tls)
                if unmet:
                    reason, text = unmet
                    return _refuse(
                        text, rcpt, plain=mail.client.tls is None, reason=f"requirement {number}: {reason}"
                    )
        return None


def _in_scope(requirement: Requirement, mail: Mail, rcpt: Address | None) -> bool:
    """Whether the requirement is to be judged now (at MAIL `rcpt` is None) and for this mail."""
    if rcpt is None:
        if requirement.recipient_domains:
            return False
    elif not _matches(requirement.recipient_domains, rcpt):
        return False
    if requirement.listeners and mail.client.listener not in requirement.listeners:
        return False
    return not requirement.sender_domains or _matches(requirement.sender_domains, mail.envelope.sender)


def _matches(patterns: Sequence[str], address: Address) -> bool:
    """Whether the address is in one of the domains; the null sender and a bare postmaster are in none."""
    domain = address.ascii_domain.rstrip(".")
    return any(domain.endswith(p) if p.startswith(".") else domain == p for p in patterns if domain)


def _unmet(requirement: Requirement, tls: TlsInfo | None) -> tuple[str, str] | None:
    """Return what is missing, for the admin and for the sender, or None where the connection will do."""
    if tls is None:
        return "no TLS", "only over an encrypted connection (TLS)"
    if _number(tls.version) < _number(f"TLSv{requirement.min_version}"):
        wanted = f"only over TLS {requirement.min_version} or newer, and this connection uses"
        return f"{tls.version} is too old", f"{wanted} {printable(tls.version, 20)}"
    if requirement.client_certificate and not tls.verified:
        return "no verified client certificate", "only from mail servers that show a valid client certificate"
    if requirement.fingerprints and tls.fingerprint.lower() not in requirement.fingerprints:
        return (
            f"client certificate {tls.fingerprint or '(none)'} is not listed",
            "only from mail servers whose client certificate is registered here",
        )
    return None


def _refuse(text: str, rcpt: Address | None, *, plain: bool, reason: str) -> Verdict:
    """Word the refusal.

    At MAIL a client without TLS hears 530 (RFC 3207 section 4): STARTTLS is the very next thing it can do. At
    RCPT it is not, as STARTTLS has no place inside a transaction and the other recipients may be fine: 550
    for this one. A session that is encrypted, but not well enough, can't issue STARTTLS either. All are
    permanent: the client would not do better by trying again, and a sender who learns it at once can act.
    """
    if rcpt is not None:
        domain = printable(rcpt.ascii_domain, 255)
        return reject(f"Mail to {domain} is accepted {text}", status="5.7.0", reason=reason)
    if plain:
        text = f"Must issue a STARTTLS command first: this mail is accepted {text}"
        return reject(text, code=530, status="5.7.0", reason=reason)
    return reject(f"This mail is accepted {text}", status="5.7.0", reason=reason)


def _number(version: str) -> tuple[int, int]:
    """Return "TLSv1.3" as (1, 3); what is no TLS version, such as "SSLv3", as the oldest of all."""
    found = _VERSION.match(version)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)
