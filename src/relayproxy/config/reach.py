"""Which routes can never be taken, because an earlier one takes all that they could.

Comparing each route with each before it would cost a minute for a few thousand, so earlier routes are found by one of
their conditions. Must not know anything but conditions of routes.
"""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from relayproxy.config.models import Route

Network: TypeAlias = IPv4Network | IPv6Network
_Block: TypeAlias = tuple[int, int, int]
"""A network as plain numbers: IP version, prefix length, first address."""
_Key: TypeAlias = tuple[str, object]

_WORDS = ("senders", "recipient_domains", "logins", "listeners")
_NETWORKS = "networks"


def unreachable(routes: Sequence[Route]) -> Iterator[tuple[int, int]]:
    """Yield (number, earlier): the route `number` is never taken, as the first such `earlier` takes all of it."""
    index = _Index()
    for number, route in enumerate(routes):
        conditions = _Conditions(route)
        earlier = index.covering(conditions)
        if earlier is not None:
            yield number, earlier  # not noted: what it would cover, `earlier` covers
        else:
            index.add(number, conditions)


class _Conditions:
    """What a route asks for, as sets; an empty one asks for nothing."""

    __slots__ = ("blocks", "lengths", "words")

    def __init__(self, route: Route) -> None:
        self.words: dict[str, frozenset[str]] = {name: frozenset(getattr(route, name)) for name in _WORDS}
        self.blocks = frozenset(map(_block, route.networks))
        self.lengths = frozenset((version, length) for version, length, _ in self.blocks)

    def keys(self) -> Iterator[list[_Key]]:
        """Yield, for each condition there is, the keys of which a route that it covers has one."""
        for name in _WORDS:
            if self.words[name]:
                yield [(name, word) for word in self.words[name]]
        if self.blocks:
            yield [(_NETWORKS, block) for block in self.blocks]

    def cover(self, other: "_Conditions") -> bool:
        """Whether every condition here holds wherever those of `other` do."""
        for name in _WORDS:
            if self.words[name] and not (other.words[name] and other.words[name] <= self.words[name]):
                return False
        if not self.blocks:
            return True
        return bool(other.blocks) and all(
            any(around in self.blocks for around in _around(block, self.lengths)) for block in other.blocks
        )


class _Index:
    """Routes by the keys of one of their conditions: the one that finds the fewest others."""

    def __init__(self) -> None:
        self._found: dict[_Key, list[tuple[int, _Conditions]]] = {}
        self._lengths: set[tuple[int, int]] = set()
        self._all: int | None = None

    def add(self, number: int, conditions: _Conditions) -> None:
        choices = list(conditions.keys())
        if not choices:
            self._all = number if self._all is None else self._all
            return
        keys = min(choices, key=lambda keys: max(len(self._found.get(key, ())) for key in keys))
        for key in keys:
            self._found.setdefault(key, []).append((number, conditions))
        if keys[0][0] == _NETWORKS:
            self._lengths |= conditions.lengths

    def covering(self, conditions: _Conditions) -> int | None:
        """Return the first route that covers these conditions."""
        numbers = [] if self._all is None else [self._all]
        for key in self._probes(conditions):
            for number, earlier in self._found.get(key, ()):
                if earlier.cover(conditions):
                    numbers.append(number)
                    break  # those behind it are later
        return min(numbers, default=None)

    def _probes(self, conditions: _Conditions) -> Iterator[_Key]:
        """Yield the keys under which a route that covers these must stand: any one value of each condition has it."""
        for name in _WORDS:
            for word in conditions.words[name]:
                yield name, word
                break
        for block in conditions.blocks:
            for around in _around(block, self._lengths):
                yield _NETWORKS, around
            break


def _block(network: Network) -> _Block:
    return network.version, network.prefixlen, int(network.network_address)


def _around(block: _Block, lengths: "frozenset[tuple[int, int]] | set[tuple[int, int]]") -> Iterator[_Block]:
    """Yield a network and those round it, of the lengths that occur."""
    version, own, address = block
    bits = 32 if version == 4 else 128
    for other, length in lengths:
        if other == version and length <= own:
            shift = bits - length
            yield version, length, address >> shift << shift
