"""Which members of an alias the next hop would not have, told by who is left when the message is there.

The next hop's answer about a further recipient goes to the log alone, so what was wanted is compared with what there is.
Must not know how aliases are written, nor what follows.
"""

from collections.abc import Sequence

from relayproxy.api import Address, Mail

_MOST = 10_000  # messages in progress; the oldest is forgotten
_BAD = 86_400.0  # seconds for which an alias is known to have a member that is refused


class Members:
    """Who was to get each message, and which aliases had a refused member lately."""

    def __init__(self) -> None:
        self._wanted: dict[str, list[tuple[Address, Sequence[Address]]]] = {}
        self._bad: dict[str, float] = {}

    def expect(self, mail: Mail, given: Address, targets: Sequence[Address]) -> None:
        """Take down where a recipient leads, be it only to itself."""
        self._wanted.setdefault(mail.id, []).append((given, targets))
        if len(self._wanted) > _MOST:
            del self._wanted[next(iter(self._wanted))]

    def missing(self, mail: Mail, now: float) -> dict[Address, Address]:
        """Return the aliases of a message of which a member is missing, with that member; ask once.

        None is, as far as can be told, where another plugin has put others in the place of members.
        """
        wanted = self._wanted.pop(mail.id, [])
        there = {recipient.address.key for recipient in mail.envelope.recipients}
        if not there <= {target.key for _, targets in wanted for target in targets}:
            return {}
        found: dict[Address, Address] = {}
        for given, targets in wanted:
            if targets[0].key not in there:
                continue  # refused as a whole
            gone = next((target for target in targets if target.key not in there), None)
            if gone is not None:
                found[given] = gone
                self._bad[given.key] = now + _BAD
            else:
                self._bad.pop(given.key, None)
        return found

    def is_bad(self, address: Address, now: float) -> bool:
        """Whether an alias had a refused member when it was last written to."""
        if self._bad.get(address.key, now) > now:
            return True
        self._bad.pop(address.key, None)
        return False

    @property
    def bad_count(self) -> int:
        """How many such aliases there are."""
        return len(self._bad)
