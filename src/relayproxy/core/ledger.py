"""The ledger of ambiguous hand-overs: an identical resend after a lost 250 is answered, not delivered again.

The next hop's 250 is entered the moment it is read; the entry is struck out as soon as the client shows, by its
next command, that it heard us. What is left belongs to clients that may never have seen their 250. Entries live in
memory that all workers share, so a killed worker's survive it. Must not know how that memory came to be.
"""

import hashlib
import struct
from collections.abc import Callable, Sequence

from relayproxy.model.envelope import Envelope
from relayproxy.model.message import Message

ENTRIES = 1024
_KEY = 8
_RECORD = struct.Struct("<32sdH")
_TEXT = 192
_SIZE = _RECORD.size + _TEXT
REGION = ENTRIES * (_KEY + _SIZE)
"""Octets of one worker's region: a column of keys, which is searched, and a column of records."""

_FREE = bytes(_KEY)
KEEP_SECONDS = 72 * 3600.0


def quick_key(envelope: Envelope, size: int) -> bytes:
    """A cheap key of eight octets, never all zero: sender, recipients and size."""
    names = [
        envelope.sender.key,
        *sorted(recipient.address.key for recipient in envelope.recipients),
        str(size),
    ]
    digest = hashlib.blake2b("\n".join(names).encode("utf-8", "surrogateescape"), digest_size=_KEY).digest()
    return digest if digest != _FREE else b"\1" * _KEY


def fingerprint(key: bytes, message: Message) -> bytes:
    """SHA-256 over the key and every octet received."""
    digest = hashlib.sha256(key)
    digest.update(message.head)
    digest.update(message.body)
    return digest.digest()


class SharedLedger:
    """One region per worker; a worker writes only its own and reads all."""

    def __init__(self, regions: Sequence[memoryview], slot: int, now: Callable[[], float]) -> None:
        self._regions = regions
        self._mine = regions[slot]
        self._now = now
        keys = bytes(self._mine[: ENTRIES * _KEY])
        self._next = next((n for n in range(ENTRIES) if keys[n * _KEY : n * _KEY + _KEY] == _FREE), 0)

    def find(self, envelope: Envelope, message: Message) -> str | None:
        """Return the answer to an identical message that may not have been heard, or None."""
        key = quick_key(envelope, message.size)
        wanted: bytes | None = None
        for region in self._regions:
            keys = bytes(region[: ENTRIES * _KEY])
            place = keys.find(key)
            while place >= 0:
                if place % _KEY == 0:
                    wanted = wanted or fingerprint(key, message)
                    at = ENTRIES * _KEY + place // _KEY * _SIZE
                    print_, when, length = _RECORD.unpack_from(region, at)
                    if print_ == wanted and self._now() - when < KEEP_SECONDS:
                        start = at + _RECORD.size
                        return bytes(region[start : start + length]).decode("ascii", "replace")
                place = keys.find(key, place + 1)
        return None

    def enter(self, envelope: Envelope, message: Message, answer: str) -> int:
        """Note a hand-over; the oldest entry makes room. Returns the token for `settle`."""
        key = quick_key(envelope, message.size)
        token = self._next
        self._next = (token + 1) % ENTRIES
        text = answer.encode("ascii", "replace")[:_TEXT]
        at = ENTRIES * _KEY + token * _SIZE
        # The key is written last: a reader never finds a half-written record.
        self._mine[token * _KEY : token * _KEY + _KEY] = _FREE
        _RECORD.pack_into(self._mine, at, fingerprint(key, message), self._now(), len(text))
        start = at + _RECORD.size
        self._mine[start : start + len(text)] = text
        self._mine[token * _KEY : token * _KEY + _KEY] = key
        return token

    def settle(self, token: int) -> None:
        """The client knows: strike the entry out."""
        self._mine[token * _KEY : token * _KEY + _KEY] = _FREE
