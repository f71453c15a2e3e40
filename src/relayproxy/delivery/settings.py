"""How an upstream is reached, as plain values; the configuration is mapped onto them in one place (app)."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from relayproxy.delivery.demand import Demand
from relayproxy.model.event import TlsEvent

TlsPolicy = str
"""off, opportunistic, required, verify, implicit, dane or mta-sts."""
SendClient = Literal["off", "xclient", "xforward", "proxy"]


@dataclass(frozen=True, slots=True)
class Address:
    """One place where an upstream listens: host and port, or the path of a Unix socket. `weight` is a share.

    `name` is that of the host where `host` is one of its addresses: its certificate is to have it.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    weight: int = 1
    name: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait: for the connection (greeting, TLS and login included), a reply, the answer to the dot."""

    connect: float = 5.0
    command: float = 30.0
    data: float = 120.0
    final: float = 600.0


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """One upstream. `login` and `password` are empty without AUTH; the TLS context fits `tls`.

    Where there is an `unverified_context`, it is for what needs no CA, and the other one verifies. `policy_domain` is the
    domain whose MTA-STS policy counts, "" for the host's own name. A `demand` says what TLS has to be in place of `tls`.
    `ratchet` is off, warn or enforce, `ratchet_expire` in seconds.
    """

    name: str
    addresses: tuple[Address, ...]
    hostname: str
    protocol: Literal["smtp", "lmtp"] = "smtp"
    tls: TlsPolicy = "off"
    tls_context: ssl.SSLContext | None = field(default=None, repr=False)
    unverified_context: ssl.SSLContext | None = field(default=None, repr=False)
    policy_domain: str = ""
    demand: Demand | None = None
    consult: frozenset[str] = frozenset({"dane", "mta-sts"})
    """Under `mx: true`: what of the recipients' domain is asked."""
    ratchet: str = "off"
    ratchet_expire: float = 2_592_000.0
    login: str = ""
    password: str = field(default="", repr=False)
    send_client: SendClient = "off"
    source_address: str = ""
    timeouts: Timeouts = field(default_factory=Timeouts)
    pool_size: int = 1000
    pool_idle: float = 60.0
    reuse: int = 1000
    breaker_failures: int = 5
    breaker_retry: float = 10.0
    on_tls: Callable[[TlsEvent], None] | None = field(default=None, repr=False, compare=False)
    """Told how each connection on which TLS was wanted ended; must not wait or raise."""
