"""Ids of connections and messages: short, sortable, unique across workers and restarts, and across machines that have a node.

A connection is `0k3v9q2m1`, its third message `0k3v9q2m1.3`; with a node it is `0k3v9q2m1x7c0`. From the left: 29 bits of
seconds, 20 of the node where there is one, 5 of the worker, 11 of a counter, as digits of base 32, so that ids of both
lengths sort by time. The clock is an argument.
"""

from hashlib import sha256

NODE_BITS = 20
COMMAND = 31
"""The slot of a command that sends mail beside the workers."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_EPOCH = 1_767_225_600  # 2026-01-01
_WORKER_BITS = 5
_COUNTER_BITS = 11
_DIGITS, _DIGITS_WITH_NODE = 9, 13


def node_from(*names: str) -> int:
    """Return the node of a machine that is known by these names: the same for the same, of some 10^6."""
    digest = sha256("\0".join(names).encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:4], "big") >> (32 - NODE_BITS)


class Ids:
    """Makes connection ids for worker `slot`, on the machine `node` if there are several.

    More than 2048 in a second borrow from the next. The first is of the next second: a predecessor that died a moment ago
    may have made some of this one.
    """

    def __init__(self, slot: int, node: int | None = None) -> None:
        self._slot = slot & ((1 << _WORKER_BITS) - 1)
        self._node = None if node is None else node & ((1 << NODE_BITS) - 1)
        self._last = 0
        self._lead = ""

    def next(self, now: float) -> str:
        """Return a new id; `now` in seconds since the epoch."""
        second = max(0, int(now) - _EPOCH)
        if second == self._last >> _COUNTER_BITS and (self._last + 1) & 31:
            # The same second, and the last digit has room: most ids differ in it alone.
            self._last += 1
            return f"{self._lead}{_ALPHABET[self._last & 31]}"
        number = max(self._last + 1, (second if self._last else second + 1) << _COUNTER_BITS)
        self._last = number
        value = number >> _COUNTER_BITS
        if self._node is not None:
            value = value << NODE_BITS | self._node
        value = value << _WORKER_BITS | self._slot
        value = value << _COUNTER_BITS | number & ((1 << _COUNTER_BITS) - 1)
        digits = []
        for _ in range(_DIGITS if self._node is None else _DIGITS_WITH_NODE):
            value, rest = divmod(value, 32)
            digits.append(_ALPHABET[rest])
        made = "".join(reversed(digits))
        self._lead = made[:-1]
        return made
