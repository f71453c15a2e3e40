"""Deposits for tests, and what a store says about them."""

from typing import Any

from relayproxy.model.client import Client
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.mail import Mail
from relayproxy.model.message import Message
from relayproxy.model.queued import Deposit, Part
from relayproxy.testing.mail import make_address

NOW = 1_790_000_000.0
CLIENT = Client("c1", "main", "192.0.2.7", 4711, helo="client.example", proto="ESMTP", ptr="ptr.example")
LEAD = b"Received: from client.example\r\n"
MESSAGE = Message.from_bytes(b"Subject: one\r\n\r\n.dot\r\nbody\r\n")


def a_mail(envelope: Envelope, client: Client = CLIENT, **more: Any) -> Mail:
    """A mail whose content has yet to come."""
    return Mail("0k3v9q2m1.3", client, envelope, Message(b""), received_at=NOW, **more)


def recipients(*names: str) -> tuple[Recipient, ...]:
    return tuple(Recipient(make_address(name)) for name in names)


def deposit(number: int = 1, **changes: Any) -> Deposit:
    """A message for one recipient over the route `up`, due at once."""
    to = recipients("b@example.net")
    usual: dict[str, Any] = {
        "id": f"id{number}",
        "client": CLIENT,
        "envelope": Envelope(make_address("a@example.org"), to),
        "lead": LEAD,
        "message": MESSAGE,
        "parts": (Part("up", to),),
        "received_at": NOW,
        "due": NOW,
    }
    return Deposit(**(usual | changes))


def stored_octets(given: Deposit) -> bytes:
    return given.lead + bytes(given.message)
