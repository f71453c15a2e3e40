"""Aliases as they are written (the form of aliases(5)), and what a name leads to in the end.

Programs, files and includes are no members here: an envelope has addresses. Must not know where the text is from.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from relayproxy.api import Address
from relayproxy.builtin._address_map import folded, read_address

DEEPEST = 10
"""Aliases that lead to aliases."""
_NO_MEMBER = ("|", "/", ":")


@dataclass(frozen=True, slots=True)
class AliasTable:
    """Names with their members, both as they are looked up: `local` names for `domains`, or addresses.

    Raises ValueError for names that lead back to themselves (one among its own members is itself) or too far.
    """

    members: Mapping[str, tuple[str, ...]]
    domains: frozenset[str]
    most: int

    def __post_init__(self) -> None:
        some_domain = min(self.domains, default="example.org")
        for name in self.members:
            self.expanded(read_address(name if "@" in name else f"{name}@{some_domain}"))

    def expanded(self, address: Address) -> tuple[Address, ...] | None:
        """Return what an address leads to, or None if it is no alias. Raises ValueError."""
        # A bare <postmaster> is the next hop's own: there is no domain to put its members in.
        if not address.domain or self._members_of(address) is None:
            return None
        found: dict[str, Address] = {}
        self._expand(address, (), found)
        return tuple(found.values())

    def _members_of(self, address: Address) -> tuple[str, ...] | None:
        members = self.members.get(folded(address))
        if members is None and address.ascii_domain in self.domains:
            members = self.members.get(address.local.lower())
        return members

    def _expand(self, address: Address, path: tuple[str, ...], found: dict[str, Address]) -> None:
        key = folded(address)
        members = None if path and path[-1] == key else self._members_of(address)
        if members is None:
            found.setdefault(key, address)
            if len(found) > self.most:
                raise ValueError(f"{path[0]} has more than {self.most} members")
            return
        if key in path:
            raise ValueError(f"{key} leads back to itself, by {' and '.join(path[path.index(key) + 1 :])}")
        if len(path) >= DEEPEST:
            raise ValueError(f"{path[0]} leads on more than {DEEPEST} times")
        for member in members:
            self._expand(
                read_address(member if "@" in member else f"{member}@{address.domain}"), (*path, key), found
            )


def read_name(text: str) -> str:
    """Return a name or an address as it is looked up. Raises ValueError."""
    text = _unquoted(text.strip())
    if "@" in text:
        return folded(read_address(text))
    return read_address(f"{text}@example.org").local.lower()


def read_member(text: str) -> str:
    """Return a member as it is written. Raises ValueError for a program, a file, an include."""
    text = _unquoted(text.strip())
    if text.startswith(_NO_MEMBER):
        raise ValueError(f"{text!r} is no address: programs, files and includes are not possible here")
    read_address(text if "@" in text else f"{text}@example.org")
    return text


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] == '"' else text


def read_lines(lines: Iterable[tuple[int, str]]) -> dict[str, tuple[str, ...]]:
    """Read lines of the form `name: member, member`. Raises ValueError with the line."""
    found: dict[str, tuple[str, ...]] = {}
    for number, line in lines:
        name, colon, rest = line.partition(":")
        try:
            if not colon:
                raise ValueError("wanted a name, a colon, and its members")  # noqa: TRY301  (one place for the line)
            key = read_name(name)
            if key in found:
                raise ValueError(f"{name.strip()} is there twice")  # noqa: TRY301  (as above)
            found[key] = tuple(_members(rest))
        except ValueError as error:
            raise ValueError(f"{number}: {error}") from None
    return found


def _members(text: str) -> Iterator[str]:
    members = [member for member in text.split(",") if member.strip()]
    if not members:
        raise ValueError("it has no members")
    yield from map(read_member, members)
