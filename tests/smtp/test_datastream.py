"""DATA ends at CRLF.CRLF and nowhere else, however the octets arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.model.message import Message
from relayproxy.smtp.datastream import ChunkReader, ContentCheck, DataReader, wire_chunks


class Kept:
    """A store that keeps."""

    def __init__(self):
        self.data = b""

    def write(self, data):
        self.data += data


def defined(wire: bytes) -> tuple[bytes, bytes] | None:
    """RFC 5321 section 4.5.2, literally: (content, what follows), or None while the end has not come."""
    text = b"\r\n" + wire
    end = text.find(b"\r\n.\r\n")
    if end < 0:
        return None
    return text[: end + 2].replace(b"\r\n.", b"\r\n")[2:], text[end + 5 :]


PIECES = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"a", b"\0", b"\r\n.\r\n", b".."]), max_size=14
)


@given(PIECES, st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_any_stream_in_any_pieces_is_read_as_defined(pieces, cuts):
    wire = b"".join(pieces)
    kept, check = Kept(), ContentCheck()
    reader = DataReader(kept, check)
    rest, position, turn = None, 0, 0
    while position < len(wire) and rest is None:
        size = cuts[turn % len(cuts)]
        rest = reader.feed(wire[position : position + size])
        position, turn = position + size, turn + 1
    expected = defined(wire)
    if expected is None:
        assert rest is None
        return
    content, following = expected
    assert kept.data == content
    assert rest + wire[position:] == following
    lines = content.count(b"\r\n")
    assert check.bare == (content.count(b"\r") != lines or content.count(b"\n") != lines)
    assert check.nul == (b"\0" in content)
    assert check.octets == len(content)


@pytest.mark.parametrize(
    "end",
    [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r\r\n.\r\r\n", b"\n\n.\n\n", b"\r\n\0.\r\n"],
)
def test_what_only_looks_like_the_end_is_not(end):
    check = ContentCheck()
    assert DataReader(Kept(), check).feed(b"a" + end + b"MAIL FROM:<x>\r\n") is None


@given(st.binary(max_size=60).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b"\r\n.")))
def test_what_is_sent_is_what_was_read(content):
    message = Message.from_bytes(content)
    wire = b"".join(wire_chunks(message)) + b".\r\n"
    kept = Kept()
    assert DataReader(kept, ContentCheck()).feed(wire) == b""
    assert (
        kept.data == content if content.endswith(b"\r\n") or not content else kept.data == content + b"\r\n"
    )


def test_a_large_message_is_stuffed_across_its_pieces():
    body = (b"." * 3 + b"\r\n") * 200_000
    message = Message(b"A: b\r\n\r\n", memoryview(body))
    wire = b"".join(bytes(piece) for piece in wire_chunks(message))
    assert wire == b"A: b\r\n\r\n" + body.replace(b"...", b"....")


@given(PIECES, st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_chunks_are_taken_octet_for_octet(pieces, sizes):
    content = b"".join(pieces)
    kept, check = Kept(), ContentCheck()
    reader = ChunkReader(kept, check)
    position = 0
    for size in sizes:
        chunk = content[position : position + size]
        reader.begin(len(chunk))
        assert reader.feed(chunk + b"NOOP\r\n") == b"NOOP\r\n" if chunk else True
        position += len(chunk)
    reader.finish()
    taken = content[:position]
    assert kept.data == taken
    lines = taken.count(b"\r\n")
    assert check.bare == (taken.count(b"\r") != lines or taken.count(b"\n") != lines)


@given(PIECES)
def test_normalised_content_has_only_crlf(pieces):
    wire = b"".join(pieces).replace(b"\r\n.\r\n", b"") + b"\r\n.\r\n"
    kept, check = Kept(), ContentCheck(normalise=True)
    if DataReader(kept, check).feed(wire) is not None and check.bare:
        lines = kept.data.count(b"\r\n")
        assert kept.data.count(b"\n") == lines
        assert kept.data.count(b"\r") == lines
        assert check.dots


def test_a_last_piece_of_one_octet_adds_no_line():
    for size in (262_144, 262_145, 262_146, 524_289):
        body = b"x" * (size - 2) + b"\r\n"
        for dotless in (True, False):
            message = Message(b"", memoryview(body), dotless=dotless)
            assert b"".join(bytes(piece) for piece in wire_chunks(message)) == body
