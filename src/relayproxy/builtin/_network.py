"""Client addresses as keys: one host may use many of them, and a provider's pool more still."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_REMEMBERED = 4096  # a client sends many commands, and taking its address apart each time is dear


@lru_cache(_REMEMBERED)
def plain(ip: str) -> IPv4Address | IPv6Address:
    """Return the address; an IPv4-mapped one as IPv4. Raises ValueError."""
    address = ip_address(ip)
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(_REMEMBERED)
def network_of(ip: str, v4: int = 24, v6: int = 64) -> str:
    """Return the network of `ip` with a prefix of so many bits; "" for a client on a Unix socket."""
    if not ip:
        return ""
    address = plain(ip)
    return str(ip_network((address, v4 if address.version == 4 else v6), strict=False))


def is_public(ip: str) -> bool:
    """Whether the address can be that of a stranger on the Internet."""
    return bool(ip) and plain(ip).is_global
