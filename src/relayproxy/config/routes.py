"""Who may send where, which upstream takes it, and how what is queued is tried again."""

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from relayproxy.config.base import Model
from relayproxy.config.bulk import PoolEntry, PoolMember
from relayproxy.config.quantities import Duration, Grace, Size
from relayproxy.config.values import Domain, Name, Network, SenderPattern


class Relay(Model):
    """Relay authorisation. What is not named here, and has not logged in, is refused."""

    domains: tuple[Domain, ...] = ()
    """Anyone may send to these; `.example.org` stands for all names below it."""
    networks: tuple[Network, ...] = ()
    """Clients in these networks may send anywhere."""


class Queue(Model):
    """How queued mail of a route is tried again."""

    retry: tuple[Duration, ...] = Field(
        default=(60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0), min_length=1, max_length=100
    )
    """The wait after each failed attempt, a fifth more or less; the last repeats."""
    expire: Duration = 432_000.0
    """When it is given up, and its sender is told."""
    delay_warning: Grace = 14_400.0
    """After how long the sender is told that it is late; `0s` for never."""
    concurrency: int = Field(default=20, ge=1, le=1000)
    """Transactions with the upstream at the same time, for each worker."""
    destination_concurrency: int | None = Field(default=None, ge=1, le=1000)
    """Of these, how many with one recipient domain, where each has servers of its own (`mx: true`). Left out: a
    quarter."""
    destination_rate: int = Field(default=0, ge=0, le=1_000_000)
    """How many transactions may begin in a minute, with each domain under `mx: true`, else with the upstream; for each
    worker. 0: any number."""
    priority: Literal["high", "normal", "low"] = "normal"
    """Which mail comes first where more is due than can go out; lower ones keep an eighth. Routes to one upstream may
    differ in it."""
    low_above: Size | None = None
    """Messages with more octets are of low priority."""
    verify_recipients: Literal["unverified", "always", "never"] = "unverified"
    """Whose recipients the upstream is asked about at RCPT, so that it refuses them then and there: those of senders
    that are not verified (no login, not from `relay.networks`, no SPF pass), all, or none. For `delivery: queue`."""
    unverifiable: Literal["defer", "reject"] = "defer"
    """What a sender that is not verified by DKIM or DMARC either hears to a message when the upstream could not be asked:
    451 or 550."""
    verify_timeout: Duration = 10.0
    """How long the upstream may take to answer."""
    verified_for: Grace = 21_600.0
    """How long it is remembered that the upstream takes a recipient; `0s` for not at all."""
    refused_for: Grace = 900.0
    """How long it is remembered that the upstream refuses a recipient; `0s` for not at all."""


def _pool_will_do(schema: dict[str, Any]) -> None:
    """A pool stands in place of the upstream."""
    schema.pop("required", None)
    schema["anyOf"] = [{"required": ["upstream"]}, {"required": ["pool"]}]


class Route(Model):
    """One line of the routing table. A condition that is left out holds for all mail."""

    model_config = ConfigDict(json_schema_extra=_pool_will_do)

    upstream: Name
    """Name of the upstream. This or `pool`."""
    pool: tuple[PoolEntry, ...] = Field(default=(), max_length=256)
    """Several upstreams that share the mail, each a name or `{upstream, weight}`; a message stays with one unless it can't
    be reached, refuses us, or has had its share of the day. The route then has a `name` of its own."""
    name: Name | None = None
    """How logs and metrics call the route. Left out: the name of the upstream."""
    delivery: Literal["pass-through", "queue"] = "pass-through"
    """`pass-through`: the upstream's answer is the client's. `queue`: the client hears 250 when the message is on
    disk; it is then tried until it is delivered, refused or expired. Needs `spool`."""
    when_down: Literal["defer", "queue"] = "defer"
    """For `pass-through`, when the upstream can't be reached: `defer` leaves the message with the client, `queue`
    queues it if its sender is authenticated or verified. Needs `spool`."""
    queue: Queue = Queue()
    """How queued mail is tried again."""
    recipient_domains: tuple[Domain, ...] = ()
    """Domains of the recipient."""
    senders: tuple[SenderPattern, ...] = ()
    """Addresses (`ana@example.org`), domains (`example.org`, `.example.org`), or `<>` for the null sender."""
    logins: tuple[str, ...] = ()
    """Logins of the client."""
    listeners: tuple[Name, ...] = ()
    """Listeners that the client came through."""
    networks: tuple[Network, ...] = ()
    """Networks of the client."""

    @model_validator(mode="before")
    @classmethod
    def _first_of_pool(cls, given: Any) -> Any:
        """The upstream of a pool is its first: what speaks of one upstream means that one."""
        if (
            isinstance(given, dict)
            and "upstream" not in given
            and isinstance(given.get("pool"), list | tuple)
        ):
            for first in given["pool"][:1]:
                name = first.get("upstream") if isinstance(first, dict) else first
                return {**given, "upstream": name}
        return given

    @property
    def members(self) -> tuple[PoolMember, ...]:
        """The upstreams that share the mail: those of the pool, or the only one."""
        return self.pool or (PoolMember(upstream=self.upstream),)

    @property
    def label(self) -> str:
        """The name, or that of the upstream."""
        return self.name or self.upstream

    @property
    def is_catch_all(self) -> bool:
        """Whether it takes whatever reaches it."""
        return not (self.recipient_domains or self.senders or self.logins or self.listeners or self.networks)
