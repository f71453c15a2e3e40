"""Bulk mail: local addresses with their shares and warm-up, pools of upstreams, rules for destinations.

Must not know whether an address is on this machine, or how mail is shared out.
"""

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, PlainSerializer, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from relayproxy.config.base import Model, refusal
from relayproxy.config.quantities import Duration
from relayproxy.config.values import Domain, FilePath, HostName, IpAddress, Name
from relayproxy.model.refused import quoted


def _day(value: Any) -> Any:
    if isinstance(value, dt.date):
        return value
    try:
        return dt.date.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        raise refusal("RP210", f"{quoted(value)} is not a day", "write 2026-11-01") from None


Day = Annotated[
    dt.date,
    BeforeValidator(_day),
    PlainSerializer(dt.date.isoformat, return_type=str, when_used="json"),
    WithJsonSchema(
        {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$", "examples": ["2026-11-01"], "title": "day"}
    ),
]


class _OrText:
    """Says in the JSON Schema that a text may stand in place of the mapping."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, handler(schema)]}


class Warmup(Model):
    """How much a new address may send, so that receivers get to know it."""

    start: Day
    """The first day (UTC). Nothing is sent before it."""
    days: tuple[Annotated[int, Field(ge=1, le=1_000_000_000)], ...] = Field(min_length=1, max_length=366)
    """Recipients on the first day, the second, and so on, for each rule of `bulk.shaping` and for all other domains
    together. After the last day there is no limit."""


class Source(Model):
    """A local address to send from."""

    address: IpAddress
    """An address of this machine. Only servers of the same kind, IPv4 or IPv6, are reached from it."""
    hostname: HostName | None = None
    """What it says in EHLO; its PTR record should say the same. Left out: `hostname`."""
    weight: int = Field(default=1, ge=0, le=1000)
    """Its share of the messages. 0: only when no other can be used."""
    warmup: Warmup | None = None
    """How much it may send at first."""


def _source(value: Any) -> Any:
    return {"address": value} if isinstance(value, str) else value


SourceEntry = Annotated[Source, BeforeValidator(_source), _OrText()]


class PoolMember(Model):
    """One upstream of a pool."""

    upstream: Name
    """Its name."""
    weight: int = Field(default=1, ge=0, le=1000)
    """Its share of the messages. 0: only when no other can be used."""


def _member(value: Any) -> Any:
    return {"upstream": value} if isinstance(value, str) else value


PoolEntry = Annotated[PoolMember, BeforeValidator(_member), _OrText()]


class Shape(Model):
    """How mail goes to some destinations under `mx: true`. What is left out is as elsewhere."""

    name: Name
    """How logs and `relayproxy queue budget` call them."""
    domains: tuple[Domain, ...] = ()
    """Domains of recipients; `.example.org` stands for all names below it."""
    mx: tuple[Domain, ...] = ()
    """Domains whose best mail server has one of these names; `.example.org` stands for all names below it."""
    concurrency: int | None = Field(default=None, ge=1, le=1000)
    """Transactions with all of them together at the same time, shared out among the workers (each has at least one)."""
    rate: int = Field(default=0, ge=0, le=1_000_000)
    """How many transactions may begin in a minute, in all workers and machines that share `state`. 0: any number."""
    recipients: int | None = Field(default=None, ge=1, le=100)
    """Recipients in one transaction."""
    messages: int | None = Field(default=None, ge=1)
    """Messages over one connection."""
    tls: Literal["required"] | None = None
    """`required`: not without STARTTLS, where the upstream would do without."""
    retry: tuple[Duration, ...] | None = Field(default=None, min_length=1, max_length=100)
    """The wait after each failed attempt, as in `queue.retry` of a route."""


class Bulk(Model):
    """Rules for bulk mail."""

    shaping: tuple[Shape, ...] = Field(default=(), max_length=1000)
    """Rules for destinations; the first that matches counts."""
    rest: Duration = 3600.0
    """How long a source or upstream of several is left alone by a destination that refused it for its reputation; twice as
    long each time it does so again, up to a day."""
    refusals: FilePath | None = None
    """Rules that say by their class `block` which refusals those are, in the form of those of the plugin `bounces`. Left
    out: its own."""
