"""The settings of dnsbl: which lists are asked about what, and what a listing is worth.

Must not ask anything.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from relayproxy.api import Settings, to_a_label
from relayproxy.builtin._listings import Kind, domain_label, parse_code


def _zone_name(text: str) -> str:
    name = to_a_label(text.strip().strip("."))
    if not domain_label(name):
        raise ValueError(f"{text!r} is not the domain of a list")
    return name


def _code(text: str) -> str:
    parse_code(text)
    return text


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class ListSettings(Settings):
    """One list."""

    zone: Annotated[str, AfterValidator(_zone_name)]
    """Its domain, such as zen.spamhaus.org."""
    of: Annotated[
        tuple[Kind, ...],
        BeforeValidator(_listed),
        Field(min_length=1),
        WithJsonSchema(
            {
                "anyOf": [
                    {"enum": ["ip", "helo", "domain", "uri"]},
                    {"type": "array", "items": {"enum": ["ip", "helo", "domain", "uri"]}},
                ]
            }
        ),
    ] = ("ip",)
    """What it lists: `ip` clients, `helo` the names they give, `domain` sender domains, `uri` hosts of links."""
    weight: float = 3.0
    """The score of a listing; below 0 for lists of good senders."""
    codes: dict[Annotated[str, AfterValidator(_code)], float] = Field(default_factory=dict)
    """Scores of single answers in place of `weight`: 127.0.0.2, 127.0.0.4-7, or &8 for a bit of the last octet.
    With it, other answers don't count."""
    action: Literal["score", "reject", "defer"] = "score"
    """`score`: only noted. `reject`, `defer`: what it lists with a score above 0 is refused: at RCPT,
    and for links after the message."""
    whole_names: bool = False
    """For `uri`: ask for the host as it stands. Else for the registered domain above it."""


def _distinct(lists: tuple[ListSettings, ...]) -> tuple[ListSettings, ...]:
    seen: set[tuple[str, str]] = set()
    for one in lists:
        for kind in one.of:
            if (one.zone, kind) in seen:
                raise ValueError(f"{one.zone} is there twice for {kind}")
            seen.add((one.zone, kind))
    return lists


class DnsblSettings(Settings):
    """The lists, and bounds. No list is asked unless it is named: each has its terms of use."""

    lists: Annotated[tuple[ListSettings, ...], AfterValidator(_distinct), Field(min_length=1)]
    """The lists; all are asked at once."""
    uris: Annotated[int, Field(ge=1, le=200)] = 20
    """So many hosts of one message are looked up; the rest are ignored."""
    wait: Annotated[float, Field(gt=0, le=60)] = 5.0
    """Seconds that one list may take."""
