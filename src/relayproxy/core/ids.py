"""Ids of connections and messages: short, sortable, unique on one machine across workers and restarts.

A connection is `0k3v9q2m1`, its third message `0k3v9q2m1.3`. The clock is an argument.
"""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_EPOCH = 1_767_225_600  # 2026-01-01
_WORKER_BITS = 5
_COUNTER_BITS = 11


class Ids:
    """Makes connection ids for worker `slot`. More than 2048 in a second borrow from the next."""

    def __init__(self, slot: int) -> None:
        self._slot = slot & ((1 << _WORKER_BITS) - 1)
        self._last = 0
        self._lead = ""

    def next(self, now: float) -> str:
        """Return a new id; `now` in seconds since the epoch."""
        if int(now) - _EPOCH == self._last >> _COUNTER_BITS and (self._last + 1) & 31:
            # The same second, and the last digit has room: most ids differ in it alone.
            self._last += 1
            return f"{self._lead}{_ALPHABET[self._last & 31]}"
        number = max(self._last + 1, max(0, int(now) - _EPOCH) << _COUNTER_BITS)
        self._last = number
        value = (number >> _COUNTER_BITS) << (_COUNTER_BITS + _WORKER_BITS)
        value |= self._slot << _COUNTER_BITS | number & ((1 << _COUNTER_BITS) - 1)
        digits = []
        for _ in range(9):
            value, rest = divmod(value, 32)
            digits.append(_ALPHABET[rest])
        made = "".join(reversed(digits))
        self._lead = made[:-1]
        return made
