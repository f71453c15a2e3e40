"""The store of the queue as the hop and the scheduler see it, and how it says that something went wrong.

Every method that changes something returns only when the change is durable. Must not know a database.
"""

from collections.abc import Sequence
from typing import Protocol

from relayproxy.model.queued import Deposit, Expired, Lease, Progress, Queued, Settlement


class SpoolError(Exception):
    """The store could not do it; nothing of it was done. The client of a new message hears 451."""


class SpoolFullError(SpoolError):
    """There is no room for it. The client of a new message hears 452 4.3.1."""


class LeaseLostError(SpoolError):
    """The lease had run out and another worker has taken the part over; nothing was changed."""


class BrokenEntryError(Exception):
    """What is stored can't be read or isn't what was written; the text says why."""


class Spool(Protocol):
    """A durable store of messages, shared by all workers."""

    def room(self) -> bool:
        """Whether there is space for another message, as far as is known without waiting."""
        ...

    async def store(self, deposit: Deposit) -> tuple[Lease, ...]:
        """Store a message; returns when it is durable, with a lease for each part if the deposit has an owner.

        Raises SpoolFullError and SpoolError; then nothing is stored.
        """
        ...

    async def due(self, route: str) -> float | None:
        """Return when a part of `route` is next due (seconds since the epoch), or None. Raises SpoolError."""
        ...

    async def count(self, route: str) -> int:
        """Return how many parts of `route` wait or are leased. Raises SpoolError."""
        ...

    async def claim(self, route: str, owner: str, until: float, limit: int) -> list[Lease]:
        """Lease up to `limit` parts of `route` that are due. Raises SpoolError.

        Where more are due, those of a higher priority come first, though not always, and tenants get even shares;
        the longest due of each come first.
        """
        ...

    async def claim_aged(
        self, route: str, owner: str, until: float, limit: int, received_before: float, *, unwarned: bool
    ) -> list[Lease]:
        """Lease parts of `route` whose message came before that time, due or not, the oldest first.

        With `unwarned` only those whose sender has not been told of the delay. Raises SpoolError.
        """
        ...

    async def load(self, leases: Sequence[Lease]) -> list[Queued | BrokenEntryError]:
        """Read leased parts; what can't be read is an error in its place. Raises SpoolError."""
        ...

    async def renew(self, leases: Sequence[Lease], until: float) -> list[Lease]:
        """Extend leases; return those that are lost. Raises SpoolError."""
        ...

    async def release(self, leases: Sequence[Lease], due: float) -> None:
        """Give leases back without an attempt; lost ones are ignored. Raises SpoolError."""
        ...

    async def note(self, lease: Lease, progress: Progress, until: float) -> None:
        """Write what a transaction of a part came to, and extend its lease, which goes on.

        All of it or nothing. Raises LeaseLostError and SpoolError.
        """
        ...

    async def settle(self, lease: Lease, settlement: Settlement) -> None:
        """Write what a lease came to, all of it or nothing. Raises LeaseLostError and SpoolError."""
        ...

    async def set_aside(self, lease: Lease, reason: str) -> None:
        """Take a part that can't be read out of the way. Raises LeaseLostError and SpoolError."""
        ...

    async def expire_held(self, before: float, limit: int) -> list[Expired]:
        """Delete up to `limit` parts that are held since before that time; return them. Raises SpoolError."""
        ...

    async def clamp(self, longest: float) -> int:
        """Make nothing wait longer than `longest` seconds from now, after the clock was set back."""
        ...

    async def close(self) -> None:
        """Finish what has been asked for and close."""
        ...


class Store(Spool, Protocol):
    """What the worker that owns a spool needs beyond what its parts do."""

    def start(self) -> None:
        """Open it. Raises OSError, sqlite3.Error and SpoolError."""
        ...

    @property
    def failed(self) -> str:
        """Why nothing is taken any more, or ""."""
        ...

    async def sweep(self) -> int:
        """Delete what a crash left behind; returns how much. Raises SpoolError."""
        ...

    async def routes(self) -> list[str]:
        """Return the routes of all that waits. Raises SpoolError."""
        ...
