"""Who may send where, and which upstream takes it."""

from typing import Literal

from relayproxy.config.base import Model
from relayproxy.config.values import Domain, Name, Network, SenderPattern


class Relay(Model):
    """Relay authorisation. What is not named here, and has not logged in, is refused."""

    domains: tuple[Domain, ...] = ()
    """Anyone may send to these; `.example.org` stands for all names below it."""
    networks: tuple[Network, ...] = ()
    """Clients in these networks may send anywhere."""


class Route(Model):
    """One line of the routing table. A condition that is left out holds for all mail."""

    upstream: Name
    """Name of the upstream."""
    name: Name | None = None
    """How logs and metrics call the route. Left out: the name of the upstream."""
    delivery: Literal["pass-through", "queue"] = "pass-through"
    """`pass-through`: the upstream's answer is the client's. `queue` comes with a later version."""
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

    @property
    def label(self) -> str:
        """The name, or that of the upstream."""
        return self.name or self.upstream

    @property
    def is_catch_all(self) -> bool:
        """Whether it takes whatever reaches it."""
        return not (self.recipient_domains or self.senders or self.logins or self.listeners or self.networks)
