"""TLS-Required: No is the one value that means something (RFC 8689 section 5)."""

import pytest

from relayproxy.model.message import Message
from relayproxy.smtp.tls_required import tls_optional


@pytest.mark.parametrize(
    ("field", "optional"),
    [
        (b"TLS-Required: No", True),
        (b"tls-required:no ", True),
        (b"TLS-Required:\r\n NO", True),
        (b"TLS-Required: Yes", False),
        (b"TLS-Required: No, thanks", False),
        (b"TLS-Required:", False),
        (b"X-TLS-Required: No", False),
        (b"Subject: TLS-Required: No", False),
    ],
)
def test_what_it_says(field, optional):
    assert tls_optional(Message.from_bytes(field + b"\r\nTo: b@example.net\r\n\r\nbody\r\n")) is optional


def test_the_body_says_nothing():
    assert not tls_optional(Message.from_bytes(b"Subject: x\r\n\r\nTLS-Required: No\r\n"))
