"""Which of many networks hold an address: one look-up for each prefix length in use.

Must not know what follows from it.
"""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Generic, TypeAlias, TypeVar

Ip: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
T = TypeVar("T")


class Networks(Generic[T]):
    """Values by network."""

    def __init__(self, pairs: Iterable[tuple[Network, T]]) -> None:
        self._levels: dict[int, dict[int, dict[int, list[T]]]] = {4: {}, 6: {}}
        for network, value in pairs:
            shift = network.max_prefixlen - network.prefixlen
            level = self._levels[network.version].setdefault(shift, {})
            level.setdefault(int(network.network_address) >> shift, []).append(value)
        self._flat: Mapping[int, tuple[tuple[int, dict[int, list[T]]], ...]] = {
            version: tuple(levels.items()) for version, levels in self._levels.items()
        }

    def found(self, ip: Ip | None) -> list[T]:
        """Return the values of all networks that hold `ip`; an IPv4 address in IPv6 form counts as IPv4."""
        if ip is None:
            return []
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        number = int(ip)
        out: list[T] = []
        for shift, level in self._flat[ip.version]:
            values = level.get(number >> shift)
            if values is not None:
                out.extend(values)
        return out


def parse_network(text: str) -> Network:
    """Return an address or a network. Raises ValueError, which says the network meant where host bits are set."""
    try:
        return ip_network(text.strip())
    except ValueError:
        meant = ip_network(text.strip(), strict=False)
        raise ValueError(f"{text} has host bits set; the network is {meant}") from None
