"""A message as the rows of a store's tables, and back: the same in every database.

Must not know a database, nor where the octets of a message are.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from relayproxy.model.message import Message
from relayproxy.model.queued import GIVEN_UP, Deposit, Lease, Queued
from relayproxy.spool.codec import (
    meta_of,
    read_client,
    read_direction,
    read_envelope,
    read_findings,
    read_meta,
    read_origin,
    read_recipient,
)

Row: TypeAlias = tuple[Any, ...]

Stored: TypeAlias = tuple[int, Deposit, bytes, bytes | None]
"""A deposit with its key, the SHA-256 of its octets, and the octets (None: they are kept elsewhere)."""

LEASE = "message, part, epoch, route, destination, attempts, warned, reason, tenant, priority"
"""The columns that `leases_of` reads."""

MESSAGE = "id, origin, sender, received, size, meta, digest, content"
"""The columns that `queued_of` reads, but for the last two."""

RECIPIENT = "number, address, notify, orcpt, reply"
"""The columns of a recipient that `queued_of` reads."""


def size_of(deposit: Deposit) -> int:
    """Return how many octets are stored."""
    return len(deposit.lead) + deposit.message.size


def rows_of(items: Iterable[Stored]) -> tuple[list[Row], list[Row], list[Row]]:
    """Return the rows of messages, parts and recipients, in the order of the columns."""
    messages: list[Row] = []
    parts: list[Row] = []
    recipients: list[Row] = []
    for key, deposit, digest, content in items:
        messages.append(
            (
                key,
                deposit.id,
                deposit.origin,
                str(deposit.envelope.sender),
                deposit.received_at,
                size_of(deposit),
                meta_of(deposit),
                digest,
                content,
            )
        )
        number = 0
        for place, part in enumerate(deposit.parts):
            parts.append(
                (
                    key,
                    place,
                    part.route,
                    part.destination,
                    deposit.standing,
                    deposit.reason,
                    deposit.due,
                    0,
                    deposit.owner,
                    1,
                    0,
                    part.tenant,
                    part.priority,
                )
            )
            for recipient in part.recipients:
                recipients.append(
                    (
                        key,
                        number,
                        place,
                        str(recipient.address),
                        ",".join(recipient.notify),
                        recipient.orcpt,
                        "",
                    )
                )
                number += 1
    return messages, parts, recipients


def first_leases(key: int, deposit: Deposit) -> tuple[Lease, ...]:
    """Return the leases that a deposit begins with: one for each part, if it has an owner."""
    if not deposit.owner:
        return ()
    return tuple(
        Lease(key, place, 1, part.route, part.destination, tenant=part.tenant, priority=part.priority)
        for place, part in enumerate(deposit.parts)
    )


def leases_of(rows: Iterable[Sequence[Any]]) -> list[Lease]:
    """Return leases from the columns of LEASE."""
    return [
        Lease(
            row[0], row[1], row[2], row[3], row[4], row[5], bool(row[6]), row[7] == GIVEN_UP, row[8], row[9]
        )
        for row in rows
    ]


def queued_of(
    lease: Lease, row: Sequence[Any], recipients: Sequence[Sequence[Any]], message: Message
) -> Queued:
    """Return a leased part from its rows. Raises ValueError, TypeError and KeyError where they make no sense."""
    kept = read_meta(row[5])
    return Queued(
        lease,
        row[0],
        read_client(kept),
        read_envelope(kept, row[2], tuple(read_recipient(*one[1:4]) for one in recipients)),
        tuple(one[0] for one in recipients),
        message,
        row[3],
        read_origin(row[1]),
        read_direction(kept),
        bool(kept["vouched"]),
        bool(kept["raw"]),
        tuple(one[4] for one in recipients),
        read_findings(kept),
    )
