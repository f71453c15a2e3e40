"""Edits are splices: what they don't name keeps every octet."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.model.address import NULL_SENDER, Address
from relayproxy.model.edits import (
    AddHeader,
    AddRecipient,
    DropHeader,
    DropRecipient,
    ReplaceBody,
    ReplaceHeader,
    ReplaceRecipient,
    SetSender,
    apply_to_envelope,
    apply_to_message,
    header_line,
)
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.message import Message, split_fields

NAMES = ["A", "a", "Subject", "X-Long-Name"]
LINES = st.sampled_from(
    [
        b"A: 1\r\n",
        b"a: 2\r\n",
        b"Subject:\r\n",
        b"subject: x\r\n\tfold\r\n",
        b"garbage\r\n",
        b"B\xff: c\r\n",
        b"D : e\r\n",
    ]
)
HEADS = st.lists(LINES, max_size=8).map(b"".join)
WHOLE = st.tuples(HEADS, st.sampled_from([b"", b"\r\n", b"\r\nbody\r\n", b"\r\n\r\n", b"\r\nno end"])).map(
    b"".join
)
OCTETS = WHOLE | st.binary(max_size=60)
VALUES = st.text("ab =?é\t", max_size=120)
ADDS = st.builds(AddHeader, st.sampled_from(NAMES), VALUES, st.booleans())
DROPS = st.builds(DropHeader, st.sampled_from(NAMES), st.none() | st.integers(0, 3))
REPLACES = st.builds(ReplaceHeader, st.sampled_from(NAMES), VALUES, st.integers(0, 3))
BODIES = st.builds(ReplaceBody, st.sampled_from([b"", b"new", b"new\r\n", b"\r\n.\r\n"]))


def raws(message):
    """What the fields are made of, and whether a blank line ends them."""
    return [field.raw for field in split_fields(message.head)]


def named(raw, name):
    return raw.partition(b":")[0].rstrip(b" \t").lower() == name.lower().encode()


# -- messages ---------------------------------------------------------------------------------------------------------


@given(OCTETS)
def test_no_edits_no_new_message(data):
    message = Message.from_bytes(data)
    assert apply_to_message(message, []) is message
    others = [SetSender(NULL_SENDER), DropRecipient(NULL_SENDER)]
    assert apply_to_message(message, others) is message


@given(OCTETS, st.sampled_from(NAMES), VALUES)
def test_a_field_on_top_changes_nothing_else(data, name, value):
    message = Message.from_bytes(data)
    edited = apply_to_message(message, [AddHeader(name, value)])
    assert bytes(edited) == header_line(name, value) + data
    assert edited.body is message.body


@given(WHOLE, st.sampled_from(NAMES), VALUES)
def test_a_field_at_the_bottom_is_the_last_and_changes_nothing_else(data, name, value):
    message = Message.from_bytes(data)
    edited = apply_to_message(message, [AddHeader(name, value, bottom=True)])
    assert raws(edited) == [*raws(message), header_line(name, value)]
    assert edited.body is message.body
    assert edited.head.endswith(b"\r\n\r\n") == (
        message.head.endswith(b"\r\n\r\n") or message.head == b"\r\n"
    )


@given(WHOLE, DROPS)
def test_what_is_dropped_is_gone_and_the_rest_is_as_it_was(data, edit):
    message = Message.from_bytes(data)
    before = raws(message)
    places = [n for n, raw in enumerate(before) if named(raw, edit.name)]
    gone = places if edit.index is None else places[edit.index : edit.index + 1]
    edited = apply_to_message(message, [edit])
    assert raws(edited) == [raw for n, raw in enumerate(before) if n not in gone]
    assert edited.body is message.body


@given(WHOLE, REPLACES)
def test_what_is_replaced_stays_in_its_place(data, edit):
    message = Message.from_bytes(data)
    before = raws(message)
    places = [n for n, raw in enumerate(before) if named(raw, edit.name)]
    line = header_line(edit.name, edit.value)
    if edit.index < len(places):
        before[places[edit.index]] = line
    else:
        before.append(line)
    assert raws(apply_to_message(message, [edit])) == before


@given(OCTETS, BODIES)
def test_another_body_leaves_the_head_alone(data, edit):
    message = Message.from_bytes(data)
    edited = apply_to_message(message, [edit])
    assert bytes(edited).startswith(message.head)
    assert edited.body == edit.body
    again = Message.from_bytes(bytes(edited))
    assert bytes(again.body) == edit.body
    if message.head.endswith(b"\r\n\r\n") or message.head == b"\r\n":
        assert edited.head == message.head


@given(WHOLE, st.lists(ADDS | DROPS | REPLACES | BODIES, max_size=6))
def test_edits_apply_in_order(data, edits):
    message = Message.from_bytes(data)
    step_by_step = message
    for edit in edits:
        step_by_step = apply_to_message(step_by_step, [edit])
    assert bytes(apply_to_message(message, edits)) == bytes(step_by_step)


def test_only_another_body_may_begin_lines_with_dots():
    message = Message(b"A: b\r\n\r\n", b"x\r\n", dotless=True, reader=lambda: iter([b"x\r\n"]))
    assert apply_to_message(message, [AddHeader("B", "c")]).dotless
    assert apply_to_message(message, [DropHeader("A")]).reader is message.reader
    other = apply_to_message(message, [ReplaceBody(b".\r\n")])
    assert not other.dotless
    assert other.reader is None


def test_a_last_line_without_its_end_gets_one_before_a_field_follows():
    edited = apply_to_message(Message(b"A: b"), [AddHeader("C", "d", bottom=True)])
    assert bytes(edited) == b"A: b\r\nC: d\r\n"


# -- one field --------------------------------------------------------------------------------------------------------


@given(st.text(max_size=200) | VALUES | st.text("a \t\r\n", max_size=30))
def test_a_value_never_ends_its_field(value):
    try:
        line = header_line("X-A", value)
    except ValueError:
        return
    fields = split_fields(line + b"B: c\r\n\r\n")
    assert [field.name for field in fields] == ["X-A", "B"]
    assert line.count(b"\r\n") == line.count(b"\r") == line.count(b"\n")
    assert all(octet >= 32 or octet in b"\t\r\n" for octet in line)
    assert line.replace(b"\r\n", b"") == f"X-A: {value}".replace("\r\n", "").encode()


@given(st.lists(st.text("abcé=", min_size=1, max_size=30), min_size=1, max_size=20))
def test_long_values_fold_at_blanks(words):
    line = header_line("Subject", " ".join(words)).decode()
    lines = line.removesuffix("\r\n").split("\r\n")
    assert all(len(piece) <= 78 or len(piece.split()) <= 2 for piece in lines)
    assert all(piece[0] == " " and piece.strip() for piece in lines[1:])


@pytest.mark.parametrize(
    "value",
    [
        "a\r\nb",
        "a\nb",
        "a\rb",
        "a\r\n",
        "\r\n",
        "a\r\n b\r\nc: d",
        "a\r\n \r\n b",
        "a\r\n\t\x00",
        "\0",
        "\x7f",
        "\x0b",
    ],
)
def test_a_value_that_would_break_out_is_refused(value):
    for make in (AddHeader, ReplaceHeader):
        with pytest.raises(ValueError, match="X-A"):
            make("X-A", value)


def test_folds_that_are_there_already_stay():
    assert header_line("A", "b;\r\n\tc\r\n d") == b"A: b;\r\n\tc\r\n d\r\n"
    assert header_line("A", "\r\n\tc") == b"A: \r\n\tc\r\n"


def test_text_that_is_no_unicode_is_refused():
    with pytest.raises(ValueError, match="surrogates"):
        AddHeader("A", "\ud800")


@given(
    octets=st.binary(max_size=60).filter(lambda octets: not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", octets))
)
def test_octets_that_are_no_utf8_come_out_as_they_went_in(octets):
    value = octets.decode("utf-8", "surrogateescape")
    assert header_line("A", value) == b"A: " + octets + b"\r\n"
    message = Message.from_bytes(b"Subject: x\r\n\r\nbody")
    edited = apply_to_message(message, [ReplaceHeader("Subject", f"[tag] {value}")])
    assert bytes(edited) == b"Subject: [tag] " + octets + b"\r\n\r\nbody"


@pytest.mark.parametrize("octets", [b"caf\xe9\x00", b"caf\xe9\n", b"caf\xe9\r\nX: y", b"\xe9\x7f"])
def test_control_characters_among_them_are_refused_all_the_same(octets):
    with pytest.raises(ValueError, match=r"control character|folds"):
        AddHeader("A", octets.decode("utf-8", "surrogateescape"))


def test_the_line_is_made_once_and_is_no_part_of_what_an_edit_is():
    edit = AddHeader("A", "b", bottom=True)
    assert edit.line == b"A: b\r\n"
    assert edit == AddHeader("A", "b", bottom=True)
    assert repr(edit) == "AddHeader(name='A', value='b', bottom=True)"
    assert replace(edit, value="c").line == b"A: c\r\n"


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\n", "a\n", "ü", "\t", "a\x7f"])
def test_bad_names_are_refused(name):
    for make in (AddHeader, ReplaceHeader):
        with pytest.raises(ValueError, match="not a header field name"):
            make(name, "x")


@pytest.mark.parametrize("body", [b"a\nb\r\n", b"a\rb\r\n", b"\n", b"\r", b"\r\n\r", b"\r\r\n"])
def test_a_body_has_crlf_lines(body):
    with pytest.raises(ValueError, match="CRLF"):
        ReplaceBody(body)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: DropHeader(None), TypeError),
        (lambda: DropHeader("A", -1), ValueError),
        (lambda: DropHeader("A", "1"), ValueError),
        (lambda: ReplaceHeader("A", "b", -1), ValueError),
        (lambda: AddHeader("A", 1), TypeError),
        (lambda: ReplaceBody("text"), TypeError),
        (lambda: SetSender("a@b.example"), TypeError),
        (lambda: AddRecipient(Address("a", "b.example")), TypeError),
        (lambda: DropRecipient("a@b.example"), TypeError),
        (lambda: ReplaceRecipient("a@b.example", Address("a", "b.example")), TypeError),
        (
            lambda: ReplaceRecipient(Address("a", "b.example"), Recipient(Address("a", "b.example"))),
            TypeError,
        ),
    ],
)
def test_an_edit_of_the_wrong_types_is_noticed_where_it_is_made(make, error):
    with pytest.raises(error):
        make()


# -- envelopes --------------------------------------------------------------------------------------------------------

ANA, BOB, EVE = (Address(name, "example.net") for name in ("ana", "bob", "eve"))
ENVELOPE = Envelope(
    Address("a", "example.org"),
    (Recipient(ANA, ("NEVER",), "rfc822;Ana@example.net"), Recipient(BOB)),
    body="8BITMIME",
    smtputf8=True,
    ret="HDRS",
    envid="x",
    requiretls=True,
    size=7,
    auth="<>",
)


@pytest.mark.parametrize(
    ("edit", "sender", "recipients"),
    [
        (SetSender(NULL_SENDER), NULL_SENDER, ENVELOPE.recipients),
        (AddRecipient(Recipient(EVE)), ENVELOPE.sender, (*ENVELOPE.recipients, Recipient(EVE))),
        (DropRecipient(Address("ana", "EXAMPLE.net")), ENVELOPE.sender, (Recipient(BOB),)),
        (DropRecipient(Address("Ana", "example.net")), ENVELOPE.sender, ENVELOPE.recipients),
        (
            ReplaceRecipient(Address("ana", "Example.Net"), EVE),
            ENVELOPE.sender,
            (Recipient(EVE, ("NEVER",), "rfc822;Ana@example.net"), Recipient(BOB)),
        ),
        (ReplaceRecipient(EVE, ANA), ENVELOPE.sender, ENVELOPE.recipients),
    ],
)
def test_envelope_edits(edit, sender, recipients):
    edited = apply_to_envelope(ENVELOPE, [edit])
    assert (edited.sender, edited.recipients) == (sender, recipients)
    assert edited.to(()) == ENVELOPE.to(()) or edited.sender is not ENVELOPE.sender


def test_no_envelope_edits_no_new_envelope():
    assert apply_to_envelope(ENVELOPE, []) is ENVELOPE
    assert apply_to_envelope(ENVELOPE, [AddHeader("A", "b"), ReplaceBody(b"")]) is ENVELOPE


def test_envelope_edits_apply_in_order():
    edits = [ReplaceRecipient(ANA, EVE), DropRecipient(ANA), DropRecipient(EVE), AddRecipient(Recipient(ANA))]
    assert apply_to_envelope(ENVELOPE, edits).recipients == (Recipient(BOB), Recipient(ANA))


def one_by_one(message, edits):
    for edit in edits:
        message = apply_to_message(message, [edit])
    return message


names = st.sampled_from(["A", "b", "Subject"])
header_edits = st.one_of(
    st.builds(AddHeader, names, st.just("new"), st.booleans()),
    st.builds(DropHeader, names, st.one_of(st.none(), st.integers(0, 3))),
    st.builds(ReplaceHeader, names, st.just("other"), st.integers(0, 3)),
    st.just(ReplaceBody(b"body\r\n")),
)
lines = st.lists(
    st.sampled_from([b"A: 1", b"b: 2", b"B : 3", b"Subject: x", b" fold", b"nothing", b"A: 4\r\n\tfold"]),
    max_size=6,
)


@given(
    lines, st.sampled_from([b"", b"\r\n", b"\r\n\r\n", b"\r\n\r\nbody"]), st.lists(header_edits, max_size=6)
)
def test_edits_in_one_go_are_the_edits_one_by_one(fields, end, edits):
    message = Message.from_bytes(b"\r\n".join(fields) + end)
    assert bytes(apply_to_message(message, edits)) == bytes(one_by_one(message, edits))
