"""The header field TLS-Required (RFC 8689). Must not know what follows from it."""

from relayproxy.model.message import Message


def tls_optional(message: Message) -> bool:
    """Whether the sender asks that TLS be no condition, by a field `TLS-Required: No` (RFC 8689 section 5)."""
    if b"tls-required" not in message.head.lower():
        return False
    return any(
        one.name.lower() == "tls-required" and one.value.strip().lower() == "no" for one in message.fields
    )
