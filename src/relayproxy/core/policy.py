"""The settings that the core obeys, as plain values; the configuration is mapped onto them in one place (app).

Must not know YAML, defaults of the configuration language, or where a value was written.
"""

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TypeAlias

from relayproxy.model.address import Address, domain_in
from relayproxy.model.client import Client
from relayproxy.model.envelope import Envelope

Network: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Limits:
    """Every bound of a session; sizes in octets, times in seconds."""

    message_size: int = 52_428_800
    recipients: int = 1000
    messages_per_connection: int = 1000
    connections: int = 2000
    connections_per_client: int = 200
    command_line: int = 4096
    command_timeout: float = 300.0
    data_timeout: float = 300.0
    bogus_commands: int = 10
    idle_commands: int = 100
    headers: int = 1000
    header_bytes: int = 262_144
    received_hops: int = 50
    auth_failures: int = 3
    message_budget: float = 45.0
    handshake_timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class ListenerPolicy:
    """How one listener behaves. `senders` maps a login to the addresses and domains it may send from."""

    name: str
    protocol: str = "smtp"
    limits: Limits = field(default_factory=Limits)
    starttls: bool = False
    tls_required: bool = False
    auth_mechanisms: tuple[str, ...] = ()
    auth_require_tls: bool = True
    auth_required: bool = False
    senders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    normalise: bool = False
    xclient: tuple[Network, ...] = ()
    xforward: tuple[Network, ...] = ()
    proxy: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Relay:
    """Who may send where: anyone to `domains`, clients in `networks` anywhere."""

    domains: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    def serves(self, address: Address) -> bool:
        """Whether `address` is in one of our domains; `.example.org` stands for all names below it."""
        return domain_in(address.ascii_domain, self.domains)


def ip_in(ip: str, networks: tuple[Network, ...]) -> bool:
    """Whether the address `ip` ("" for a Unix socket) is in one of `networks`; an IPv4-mapped one counts as IPv4."""
    if not ip or not networks:
        return False
    try:
        address = ip_address(ip)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the routing table; an empty condition holds for everything.

    One that is `chosen` is taken by no mail of itself: a plugin has to name it.
    """

    name: str
    upstream: str
    recipient_domains: frozenset[str] = frozenset()
    senders: frozenset[str] = frozenset()
    logins: frozenset[str] = frozenset()
    listeners: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    chosen: bool = False

    def matches(self, client: Client, sender: Address, recipient: Address) -> bool:
        """Whether mail of this client, sender and recipient takes this route."""
        return (
            not self.chosen
            and (not self.listeners or client.listener in self.listeners)
            and (not self.logins or client.identity in self.logins)
            and (not self.recipient_domains or domain_in(recipient.ascii_domain, self.recipient_domains))
            and (not self.senders or address_in(sender, self.senders))
            and (not self.networks or ip_in(client.ip, self.networks))
        )


def address_in(address: Address, names: frozenset[str]) -> bool:
    """Whether an address is listed itself ("a@x.org", "<>") or by its domain ("x.org", ".x.org")."""
    if not address:
        return "<>" in names
    key = address.key
    return key in names or key.lower() in names or domain_in(address.ascii_domain, names)


def choose_route(
    routes: tuple[Route, ...], client: Client, sender: Address, recipient: Address
) -> Route | None:
    """Return the first route that matches, or None."""
    for route in routes:
        if route.matches(client, sender, recipient):
            return route
    return None


def route_for(
    routes: tuple[Route, ...], client: Client, envelope: Envelope, recipient: Address
) -> Route | None:
    """Return the route that a plugin has named, else the first that matches; None where there is none."""
    if envelope.route:
        return next((route for route in routes if route.name == envelope.route), None)
    return choose_route(routes, client, envelope.sender, recipient)
