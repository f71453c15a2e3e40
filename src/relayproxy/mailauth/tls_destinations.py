"""Where a domain wants reports on TLS: the record at `_smtp._tls` (RFC 8460 section 3).

Must not know what a report holds, and asks DNS through a Fetch.
"""

import re
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from relayproxy.mailauth.lookup import Fetch
from relayproxy.mailauth.report_places import Destination, Refusal, read_mailto, read_places
from relayproxy.model.address import to_a_label

_VERSION = re.compile(rb"v=TLSRPTv1\s*(?:;|\Z)")
_LONGEST = 2000
_PORT = 443


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place that takes reports by HTTPS POST; `host` is a name (A-labels) or an address, `target` path and query."""

    host: str
    port: int
    target: str
    uri: str

    def __str__(self) -> str:
        return self.uri


Place: TypeAlias = Destination | Endpoint


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the record of a domain came to: the places, and what in it is none."""

    places: tuple[Place, ...] = ()
    refused: tuple[Refusal, ...] = ()


def record_name(domain: str) -> str:
    """Return where the record stands."""
    return f"_smtp._tls.{domain}"


async def look_up(domain: str, fetch: Fetch) -> Wanted:
    """Return where the reports of `domain` (A-labels) go; nowhere unless there is exactly one record."""
    name = record_name(domain)
    (answer,) = await fetch([(name, "TXT")])
    if answer.failed:
        return Wanted(refused=(Refusal(name, f"the look-up of {name} failed", temporary=True),))
    records = [text for text in answer.records if _VERSION.match(text)]
    return read_record(records[0]) if len(records) == 1 else Wanted()


def read_record(record: bytes) -> Wanted:
    """Read `v=TLSRPTv1; rua=URI,URI`. In a URI, ",", ";" and "!" are percent-encoded (section 3)."""
    fields = [part.partition("=") for part in record.decode("ascii", "replace").split(";")]
    rua = next((value for name, equals, value in fields if equals and name.strip().lower() == "rua"), "")
    found: tuple[tuple[Place, ...], tuple[Refusal, ...]]
    found = read_places(rua, _place, "a mailto or https URI that can be used")
    return Wanted(*found)


def _place(uri: str) -> Place | None:
    return read_mailto(uri) if uri[:7].lower() == "mailto:" else _endpoint(uri)


def _endpoint(uri: str) -> Endpoint | None:
    """Read an https URI without a login."""
    if len(uri) > _LONGEST or not uri.isascii() or not uri.isprintable() or " " in uri:
        return None
    try:
        parts = urlsplit(uri)
        port = parts.port or _PORT
    except ValueError:
        return None
    host = to_a_label(parts.hostname or "")
    if parts.scheme.lower() != "https" or not host or "@" in parts.netloc:
        return None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Endpoint(host, port, target, uri)
