import pytest

from relayproxy.core.recording import message_id


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b"Message-ID: <1@x>\r\nTo: a\r\n\r\n", "<1@x>"),
        (b"To: a\r\nmessage-id :\r\n <1@x>\r\n\r\n", "<1@x>"),
        (b"To: a\r\nMESSAGE-ID:<1@x> (comment)\r\n\r\n", "<1@x>"),
        (b"X-Message-ID: <1@x>\r\nMessage-ID-Old: <2@x>\r\n\r\n", ""),
        (b"Message-ID-Old: <2@x>\r\nTo: a\r\n\r\n", ""),
        (b"Message-ID: \xff\r\n\r\n", "\ufffd"),
        (b"Message-ID", ""),
        (b"", ""),
    ],
)
def test_the_message_id_is_found_without_an_index(head, found):
    assert message_id(head) == found
