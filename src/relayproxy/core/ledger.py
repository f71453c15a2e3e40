"""The ledger of ambiguous hand-overs: an identical resend after a lost 250 is answered, not delivered again.

The next hop's 250 is entered the moment it is read; the entry is struck out as soon as the client shows, by its
next command, that it heard us. What is left belongs to clients that may never have seen their 250. Entries live in
memory that all workers share, so a killed worker's survive it. Must not know how that memory came to be.
"""

import struct
from collections.abc import Callable, Sequence

from relayproxy.model.envelope import Envelope
from relayproxy.model.message import Message

ENTRIES = 512
_KEY = struct.Struct("<q")
_RECORD = struct.Struct("<qqdH198s")
_TEXT = 198
REGION = ENTRIES * (_KEY.size + _RECORD.size)
"""Octets of one worker's region: a column of keys, which is searched, and a column of records."""

_FREE = bytes(_KEY.size)
_RECORDS = ENTRIES * _KEY.size
KEEP_SECONDS = 72 * 3600.0


def quick_key(envelope: Envelope, size: int) -> bytes:
    """A cheap key of eight octets, never all zero: sender, recipients and size."""
    names = [str(recipient.address) for recipient in envelope.recipients]
    if len(names) > 1:
        names.sort()
    return _KEY.pack(hash((size, str(envelope.sender), *names)) | 1)


def fingerprint(message: Message) -> tuple[int, int]:
    """Two numbers over every octet received, by the interpreter's keyed hash (SipHash).

    Its key is secret and shared by all workers of a supervisor, so nobody can make two messages alike, and it costs
    less than half of SHA-256.
    """
    return hash(message.head), hash(message.body)


class SharedLedger:
    """One region per worker; a worker writes only its own and reads all."""

    def __init__(self, regions: Sequence[memoryview], slot: int, now: Callable[[], float]) -> None:
        self._regions = regions
        self._slot = slot
        self._mine = regions[slot]
        self._now = now
        keys = bytes(self._mine[:_RECORDS])
        self._next = next(
            (n for n in range(ENTRIES) if keys[n * _KEY.size : (n + 1) * _KEY.size] == _FREE), 0
        )

    def find(self, envelope: Envelope, message: Message) -> tuple[str, int] | None:
        """Return the answer to an identical message that may not have been heard, and its token; or None."""
        key = quick_key(envelope, message.size)
        for number, region in enumerate(self._regions):
            keys = bytes(region[:_RECORDS])
            place = keys.find(key)
            while place >= 0:
                if place % _KEY.size == 0:
                    entry = place // _KEY.size
                    head, body, when, length, text = _RECORD.unpack_from(
                        region, _RECORDS + entry * _RECORD.size
                    )
                    if self._now() - when < KEEP_SECONDS and (head, body) == fingerprint(message):
                        return str(text[:length], "ascii", "replace"), number * ENTRIES + entry
                place = keys.find(key, place + 1)
        return None

    def enter(self, envelope: Envelope, message: Message, answer: str) -> int | None:
        """Note a hand-over; the oldest entry makes room. Returns the token for `settle`.

        A message without Message-ID is not entered: that two such are alike says nothing.
        """
        if b"\nmessage-id" not in b"\n" + message.head.lower():
            return None
        entry = self._next
        self._next = (entry + 1) % ENTRIES
        text = answer.encode("ascii", "replace")[:_TEXT]
        place = entry * _KEY.size
        # The key is written last: a reader never finds a half-written record.
        self._mine[place : place + _KEY.size] = _FREE
        _RECORD.pack_into(
            self._mine,
            _RECORDS + entry * _RECORD.size,
            *fingerprint(message),
            self._now(),
            len(text),
            text,
        )
        self._mine[place : place + _KEY.size] = quick_key(envelope, message.size)
        return self._slot * ENTRIES + entry

    def settle(self, token: int) -> None:
        """The client knows: strike the entry out."""
        number, entry = divmod(token, ENTRIES)
        self._regions[number][entry * _KEY.size : (entry + 1) * _KEY.size] = _FREE
