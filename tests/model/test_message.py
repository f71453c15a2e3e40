"""The received octets: kept bit for bit, cut into fields without losing one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.model.message import HeaderField, Message, split_fields

PIECES = [
    b"\r\n",
    b"\r\n\r\n",
    b":",
    b" ",
    b"\t",
    b"A",
    b"Subject: x",
    b"\xff",
    b"\r",
    b"\n",
    b"\0",
    b"x: y\r\n",
]
OCTETS = st.lists(st.sampled_from(PIECES), max_size=14).map(b"".join) | st.binary(max_size=40)


@given(OCTETS)
def test_what_arrived_is_what_it_holds(data):
    message = Message.from_bytes(data)
    assert bytes(message) == data
    assert len(message) == message.size == len(data)


@given(OCTETS)
def test_the_head_ends_with_the_first_blank_line_or_is_all(data):
    message = Message.from_bytes(data)
    blank = b"\r\n" if data.startswith(b"\r\n") else data[: data.find(b"\r\n\r\n") + 4]
    if data.startswith(b"\r\n") or b"\r\n\r\n" in data:
        assert message.head == blank
    else:
        assert (message.head, bytes(message.body)) == (data, b"")


@given(OCTETS)
def test_the_fields_are_all_of_the_head(data):
    head = Message.from_bytes(data).head
    joined = b"".join(field.raw for field in split_fields(head))
    assert head in (joined, joined + b"\r\n")
    for field in split_fields(head)[:-1]:
        assert field.raw.endswith(b"\r\n")
    for field in split_fields(head)[1:]:
        assert field.raw[:1] not in (b" ", b"\t")


@given(OCTETS, st.integers(1, 50))
def test_pieces_are_small_and_make_up_the_whole(data, size):
    pieces = list(Message.from_bytes(data).chunks(size))
    assert b"".join(bytes(piece) for piece in pieces) == data
    assert all(len(piece) <= size for piece in pieces)


def test_a_large_body_is_not_copied():
    data = b"A: b\r\n\r\n" + b"x" * 200_000
    message = Message.from_bytes(data)
    assert isinstance(message.body, memoryview)
    assert message.body.obj is data
    assert all(isinstance(piece, memoryview) for piece in message.chunks(70_000))


def test_a_reader_gives_the_body_when_it_is_large():
    read = [b"x" * 10, b"y" * 10]
    message = Message(b"A: b\r\n\r\n", memoryview(b"".join(read)), reader=lambda: iter(read))
    assert list(message.chunks(20)) == [b"A: b\r\n\r\n", *read]
    assert list(message.chunks(28)) == [bytes(message)]


# -- fields -----------------------------------------------------------------------------------------------------------

HEAD = (
    b"Subject : =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
    b"X-Long: one\r\n\ttwo\r\n  three \r\n"
    b"subject: again\r\n"
    b"no field at all\r\n"
    b"B\xc3\xa4d: name\r\n"
    b"X-Raw: \xff\xc3\xa4\r\n"
    b": nameless\r\n"
    b"X-Empty:\r\n"
    b"\r\n"
)


def test_fields_are_found_by_name_in_any_case():
    message = Message(HEAD)
    assert [field.raw for field in message.all("SUBJECT")] == [HEAD[:39], b"subject: again\r\n"]
    assert message.header("x-LONG") == "one\ttwo  three"
    assert message.header("X-Raw") == "\ufffdä"
    assert message.header("X-Empty") == ""
    assert message.header("X-None") is None
    assert message.all("X-None") == ()


def test_a_line_that_is_no_field_has_no_name_and_keeps_its_octets():
    odd = [field for field in Message(HEAD).fields if not field.name]
    assert [field.raw for field in odd] == [
        b"no field at all\r\n",
        b"B\xc3\xa4d: name\r\n",
        b": nameless\r\n",
    ]
    assert odd[0].value == "no field at all"


def test_the_subject_is_decoded():
    assert Message(HEAD).subject == "Grüße"
    assert Message(HEAD).all("Subject")[0].text == "Grüße"
    assert Message(b"\r\n").subject == ""


@pytest.mark.parametrize(
    ("head", "names"),
    [
        (b"", []),
        (b"\r\n", []),
        (b"A: b", ["A"]),
        (b"A: b\r\n", ["A"]),
        (b"A: b\r\n\r\n", ["A"]),
        (b"A: b\r\nC: d", ["A", "C"]),
        (b" folded first\r\nA: b\r\n", ["", "A"]),
        (b"A: b\r\n \r\n\t\r\nC: d\r\n", ["A", "C"]),
        (b"A:b\nC: d\r\n", ["A"]),
        (b"A\t: b\r\n", ["A"]),
        (b"A B: c\r\n", [""]),
    ],
)
def test_how_a_head_is_cut(head, names):
    assert [field.name for field in split_fields(head)] == names


def test_a_field_is_a_slice_and_knows_its_value():
    assert HeaderField("A", b"A:\t b\r\n\tc: d \r\n").value == "b\tc: d"


@pytest.mark.parametrize(
    "message",
    [
        Message.from_bytes(b"A: b\r\n\r\nbody"),
        Message.from_bytes(b"A: b\r\n"),
        Message.from_pieces([b"A: b\r\n\r\nbo", b"d", b"y" * 100_000]),
        Message(b"A: b\r\n\r\n", memoryview(b"body")),
    ],
)
def test_the_size_of_the_body(message):
    assert message.body_size == len(message.body)
    assert message.with_head(b"").body_size == len(message.body)
