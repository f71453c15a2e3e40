"""The values: frozen, bit for bit, and safe to write."""

import dataclasses
import importlib
import pkgutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import relayproxy.model
from relayproxy.model.edits import (
    AddHeader,
    DropHeader,
    ReplaceBody,
    ReplaceHeader,
    apply_to_message,
    header_line,
)
from relayproxy.model.message import Message, split_fields

OCTETS = st.lists(
    st.sampled_from(
        [b"\r\n", b":", b" ", b"\t", b"A", b"Subject", b"\xff", b"\r", b"\n", b"\0", b"x: y\r\n"]
    ),
    max_size=14,
).map(b"".join)


def test_all_values_are_frozen_and_slotted():
    found = 0
    for info in pkgutil.iter_modules(relayproxy.model.__path__):
        module = importlib.import_module(f"relayproxy.model.{info.name}")
        for value in vars(module).values():
            if dataclasses.is_dataclass(value) and isinstance(value, type):
                assert value.__dataclass_params__.frozen, value
                assert "__slots__" in vars(value), value
                found += 1
    assert found >= 15


@given(OCTETS)
def test_what_arrived_is_what_it_holds(data):
    message = Message.from_bytes(data)
    assert bytes(message) == data
    assert (
        b"".join(field.raw for field in message.fields)
        + message.head[sum(len(f.raw) for f in message.fields) :]
        == message.head
    )
    assert b"".join(bytes(piece) for piece in message.chunks(3)) == data


@given(OCTETS)
def test_no_edits_no_new_message(data):
    message = Message.from_bytes(data)
    assert apply_to_message(message, []) is message


@given(OCTETS, st.sampled_from(["X-A", "Subject"]), st.text("ab \x20é", max_size=90))
def test_adding_a_field_changes_nothing_else(data, name, value):
    message = Message.from_bytes(data)
    edited = apply_to_message(message, [AddHeader(name, value)])
    assert bytes(edited) == header_line(name, value) + data
    assert edited.body == message.body


def test_replacing_and_dropping_touch_only_what_they_name():
    raw = b"A: 1\r\nB: 2\r\n folded\r\nA: 3\r\n\r\nbody\r\n"
    message = Message.from_bytes(raw)
    assert bytes(apply_to_message(message, [ReplaceHeader("a", "x", 1)])) == raw.replace(b"A: 3", b"a: x")
    assert bytes(apply_to_message(message, [DropHeader("b")])) == raw.replace(b"B: 2\r\n folded\r\n", b"")
    assert bytes(apply_to_message(message, [DropHeader("A", 0)])) == raw[6:]
    assert bytes(apply_to_message(message, [AddHeader("C", "4", bottom=True)])) == raw.replace(
        b"\r\n\r\n", b"\r\nC: 4\r\n\r\n"
    )
    assert bytes(apply_to_message(message, [ReplaceBody(b"new\r\n")])) == raw.replace(b"body", b"new")


@given(st.text(max_size=200))
def test_a_header_value_never_ends_its_field(value):
    try:
        line = header_line("X-A", value)
    except (ValueError, UnicodeEncodeError):
        return
    fields = split_fields(line + b"\r\n")
    assert len(fields) == 1
    assert line.count(b"\r\n") == line.count(b"\r") == line.count(b"\n")


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\n", "ü"])
def test_bad_names_are_refused(name):
    with pytest.raises(ValueError, match="not a header field name"):
        AddHeader(name, "x")


def test_a_body_has_crlf_lines():
    with pytest.raises(ValueError, match="CRLF"):
        ReplaceBody(b"a\nb\r\n")
