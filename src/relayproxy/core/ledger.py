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
KEEP_SECONDS = 72 * 3600.0

_WHOLE = 262_144
_BLOCKS = 64
_BLOCK = 1024
_LIVE = struct.Struct("<q")
_RECORD = struct.Struct(
    "<qqqdH190s"
)  # key, hash of the head, hash of the body, when, length of the text, text
_TEXT = 190
REGION = _LIVE.size + ENTRIES * _RECORD.size
"""Octets of one worker's region: how many entries live in it, and the entries. A key of 0 is a free place."""


def _place(entry: int) -> int:
    return _LIVE.size + entry * _RECORD.size


def quick_key(envelope: Envelope, size: int) -> int:
    """A cheap number, never 0: sender, recipients and size."""
    sender, recipients = envelope.sender, envelope.recipients
    if len(recipients) == 1:
        address = recipients[0].address
        return hash((size, sender.local, sender.domain, address.local, address.domain)) | 1
    names = sorted(str(recipient.address) for recipient in recipients)
    return hash((size, sender.local, sender.domain, *names)) | 1


def fingerprint(message: Message) -> tuple[int, int]:
    """Two numbers over what was received, by the interpreter's keyed hash (SipHash).

    Its key is secret and shared by all workers of a supervisor, so nobody can make two messages alike, and it costs
    less than half of SHA-256. Of a large body 64 blocks of a KiB are looked at, spread over all of it: with the
    same header, Message-ID and size, another message would have to differ only between them.
    """
    size = message.body_size
    if size <= _WHOLE:
        return hash(message.head), hash(message.body)
    step = (size - _BLOCK) // (_BLOCKS - 1)
    blocks = [message.body_part(n * step, n * step + _BLOCK) for n in range(_BLOCKS)]
    return hash(message.head), hash(b"".join(blocks))


class SharedLedger:
    """One region per worker; a worker enters in its own only, and reads all."""

    def __init__(self, regions: Sequence[memoryview], slot: int, now: Callable[[], float]) -> None:
        self._regions = regions
        self._slot = slot
        self._mine = regions[slot]
        self._others = [number for number in range(len(regions)) if number != slot]
        self._now = now
        self._next = 0
        # What a predecessor in this slot left is still open.
        self._entries = {
            key: entry for entry in range(ENTRIES) if (key := _LIVE.unpack_from(self._mine, _place(entry))[0])
        }

    def find(self, key: int, message: Message) -> tuple[str, int] | None:
        """Return the answer to an identical message that may not have been heard, and its token; or None."""
        entry = self._entries.get(key)
        if entry is not None and (found := self._match(self._slot, entry, key, message)):
            return found
        for number in self._others:
            region = self._regions[number]
            if _LIVE.unpack_from(region)[0]:
                for entry in range(ENTRIES):
                    if _LIVE.unpack_from(region, _place(entry))[0] == key and (
                        found := self._match(number, entry, key, message)
                    ):
                        return found
        return None

    def _match(self, number: int, entry: int, key: int, message: Message) -> tuple[str, int] | None:
        known, head, body, when, length, text = _RECORD.unpack_from(self._regions[number], _place(entry))
        if known != key or self._now() - when > KEEP_SECONDS or (head, body) != fingerprint(message):
            return None
        return str(text[:length], "ascii", "replace"), number * ENTRIES + entry

    def enter(self, key: int, message: Message, answer: str) -> int | None:
        """Note a hand-over; the oldest entry makes room. Returns the token for `settle`.

        A message without Message-ID is not entered: that two such are alike says nothing.
        """
        lowered = message.head.lower()
        if b"\nmessage-id" not in lowered and not lowered.startswith(b"message-id"):
            return None
        entry = self._next
        self._next = (entry + 1) % ENTRIES
        self._strike(entry)
        text = answer.encode("ascii", "replace")[:_TEXT]
        head, body = fingerprint(message)
        _RECORD.pack_into(self._mine, _place(entry), key, head, body, self._now(), len(text), text)
        self._entries[key] = entry
        _LIVE.pack_into(self._mine, 0, len(self._entries))
        return self._slot * ENTRIES + entry

    def _strike(self, entry: int) -> None:
        place = _place(entry)
        key = _LIVE.unpack_from(self._mine, place)[0]
        if key:
            _LIVE.pack_into(self._mine, place, 0)
            if self._entries.get(key) == entry:
                del self._entries[key]

    def settle(self, token: int) -> None:
        """The client knows: strike the entry out."""
        number, entry = divmod(token, ENTRIES)
        if number == self._slot:
            self._strike(entry)
            _LIVE.pack_into(self._mine, 0, len(self._entries))
        else:
            _LIVE.pack_into(self._regions[number], _place(entry), 0)
