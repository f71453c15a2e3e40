"""Envelope and client as text for a database, and back. Must not know tables."""

from dataclasses import asdict, fields
from typing import Any

import orjson

from relayproxy.model.address import Address
from relayproxy.model.client import Client, TlsInfo
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.finding import Finding
from relayproxy.model.mail import Direction, Origin
from relayproxy.model.queued import Deposit

_OPTIONS = (
    "body", "smtputf8", "ret", "envid", "requiretls", "size", "auth", "route", "tls_onward", "tenant", "campaign",
)  # fmt: skip
_CLIENT = frozenset(field.name for field in fields(Client)) - {"tls"}


def meta_of(deposit: Deposit) -> str:
    """Return what is kept of a deposit beside its columns; defaults are left out."""
    envelope, client = deposit.envelope, deposit.client
    kept: dict[str, Any] = {
        "envelope": {name: value for name in _OPTIONS if (value := getattr(envelope, name))},
        "client": {name: value for name in _CLIENT if (value := getattr(client, name))},
        "direction": deposit.direction,
        "vouched": deposit.vouched,
        "raw": deposit.raw,
    }
    if client.tls is not None:
        kept["tls"] = asdict(client.tls)
    if deposit.findings:
        kept["findings"] = [_plain(finding) for finding in deposit.findings]
    return orjson.dumps(kept).decode()


def _plain(finding: Finding) -> list[Any]:
    props = {_text(name): _text(value) for name, value in finding.props.items()}
    texts = (finding.reason, finding.by)
    return [_text(finding.method), finding.result, finding.score, props, *map(_text, texts)]


def _text(text: str) -> str:
    """Return a text of a plugin's as UTF-8 can say it."""
    return text.encode("utf-8", "replace").decode()


def read_meta(text: str) -> dict[str, Any]:
    """Read what `meta_of` wrote. Raises ValueError, or TypeError for JSON that is no object."""
    return dict(orjson.loads(text))


def read_client(kept: dict[str, Any]) -> Client:
    """Return the client. Raises TypeError and KeyError where `meta_of` did not write this."""
    given = {"id": "", "listener": "", "ip": "", **kept["client"]}
    return Client(**given, tls=TlsInfo(**kept["tls"]) if "tls" in kept else None)


def read_envelope(kept: dict[str, Any], sender: str, recipients: tuple[Recipient, ...]) -> Envelope:
    """Return the envelope. Raises TypeError and KeyError where `meta_of` did not write this."""
    return Envelope(read_address(sender), recipients, **kept["envelope"])


def read_findings(kept: dict[str, Any]) -> tuple[Finding, ...]:
    """Return the findings. Raises TypeError and ValueError where `meta_of` did not write this."""
    return tuple(Finding(*one) for one in kept.get("findings", ()))


def read_direction(kept: dict[str, Any]) -> Direction:
    """Return the direction. Raises ValueError and KeyError."""
    return Direction(kept["direction"])


def read_origin(text: str) -> Origin:
    """Return the origin. Raises ValueError."""
    return Origin(text)


def read_address(text: str) -> Address:
    """Return an address from what `str` made of it."""
    local, at, domain = text.rpartition("@")
    return Address(local, domain) if at else Address(text, "")


def read_recipient(address: str, notify: str, orcpt: str) -> Recipient:
    """Return a recipient from its columns."""
    return Recipient(read_address(address), tuple(notify.split(",")) if notify else (), orcpt)
