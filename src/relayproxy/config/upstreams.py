"""Upstreams: the next hops, how they are reached, encrypted, and judged dead."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from relayproxy.config.base import Model
from relayproxy.config.bulk import SourceEntry, Warmup
from relayproxy.config.quantities import Duration
from relayproxy.config.values import FilePath, HopAddress, HostName, IpAddress
from relayproxy.secrets import SecretRef


class Timeouts(Model):
    """How long each step with an upstream may take. All but the last end in a 4xx for the client."""

    connect: Duration = 5.0
    """The connection: TCP, the banner, TLS, and the login."""
    command: Duration = 30.0
    """The answer to EHLO, MAIL and RCPT."""
    data: Duration = 180.0
    """The answer to DATA, and the time within which some of the message must be taken."""
    final: Duration = 600.0
    """The answer to the final dot. It is never resent, as nobody knows what became of it (RFC 5321 4.5.3.2.6)."""


class Pool(Model):
    """Connections that are kept open."""

    size: int = Field(default=1000, ge=1, le=10_000)
    """Connections to one upstream at the same time, shared out among the workers, and the sources if there are several."""
    idle: Duration = 60.0
    """How long one is kept without work."""
    reuse: int = Field(default=1000, ge=1)
    """Messages over one connection."""


class Breaker(Model):
    """When an address is taken for dead, and when it is tried again."""

    failures: int = Field(default=5, ge=1)
    """Failed connections in a row."""
    retry: Duration = 10.0
    """How long it is left alone then."""


class WeightedAddress(Model):
    """One address of an upstream."""

    address: HopAddress
    """`host:port`, `[v6]:port` or `unix:/path`."""
    weight: int = Field(default=1, ge=0, le=1000)
    """Its share of the connections. 0: only when all others are down."""


def _weighted(value: Any) -> Any:
    return {"address": value} if isinstance(value, str) else value


WeightedEntry = Annotated[
    WeightedAddress,
    BeforeValidator(_weighted),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {
                        "address": {"type": "string"},
                        "weight": {"type": "integer", "minimum": 0, "maximum": 1000},
                    },
                    "required": ["address"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class Upstream(Model):
    """A next hop."""

    address: HopAddress | None = None
    """`host:port`, `[v6]:port` or `unix:/path`. This or `addresses`."""
    addresses: tuple[WeightedEntry, ...] = ()
    """Several, each an address or `{address, weight}`. The next is tried only before DATA."""
    mx: bool = False
    """In place of addresses: the mail servers of each recipient's domain, as DNS names them. Only for
    `delivery: queue`."""
    mx_port: int = Field(default=25, ge=1, le=65_535)
    """The port of those servers; only a laboratory has another."""
    protocol: Literal["smtp", "lmtp"] = "smtp"
    """How it is spoken to."""
    tls: Literal["off", "opportunistic", "required", "verify", "implicit", "dane", "mta-sts"] = (
        "opportunistic"
    )
    """`opportunistic` takes what is offered, `required` insists on STARTTLS, `verify` also on a valid
    certificate, `implicit` begins with TLS and verifies. `dane` and `mta-sts` insist on the certificate that TLSA
    records, or on the policy that the domain's MTA-STS file, ask for; without either, nothing is sent. Under `mx: true` see
    `tls_policies` too."""
    policy_domain: HostName | None = None
    """With `mta-sts`: the domain whose policy counts. Left out: the host's own name. Not under `mx: true`."""
    tls_policies: tuple[Literal["dane", "mta-sts"], ...] = ("dane", "mta-sts")
    """Under `mx: true`: what of a recipients' domain counts beside `tls`, its TLSA records and its MTA-STS policy. With
    `tls: off` neither does."""
    tls_ratchet: Literal["off", "warn", "enforce"] = "off"
    """What is done when a host offers less TLS than it once did: no STARTTLS, or a certificate that is not good for its name
    any more. `warn` says so in the log, `enforce` also puts mail off. Remembered in the `state`."""
    tls_ratchet_expire: Duration = 2_592_000.0
    """How long it is remembered after it was last seen."""
    ca: FilePath | None = None
    """PEM file of the CAs that are trusted here. Left out: the system's."""
    client_cert: FilePath | None = None
    """PEM file with the certificate that we show."""
    client_key: FilePath | None = None
    """PEM file with its private key."""
    login: str | None = None
    """Login for AUTH."""
    password: SecretRef | None = None
    """Its password: `{env: NAME}`, `{file: path}` or `{credential: name}`."""
    send_client: Literal["off", "xclient", "xforward", "proxy"] = "off"
    """How the upstream learns the real client's address."""
    timeouts: Timeouts = Timeouts()
    """How long each step may take."""
    pool: Pool = Pool()
    """Connections that are kept open."""
    breaker: Breaker = Breaker()
    """When an address is taken for dead."""
    source_address: IpAddress | None = None
    """The local address to connect from."""
    sources: tuple[SourceEntry, ...] = Field(default=(), max_length=256)
    """Several of them, each an address or `{address, hostname, weight, warmup}`; a message stays with one."""
    warmup: Warmup | None = None
    """How much may be sent at first, over all sources."""

    @property
    def targets(self) -> tuple[WeightedAddress, ...]:
        """All addresses, however they were written."""
        return (WeightedAddress(address=self.address),) if self.address else self.addresses
