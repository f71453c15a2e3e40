from hashlib import sha256

import dkim.canonicalization as dkimpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.mailauth import canonical
from relayproxy.mailauth.canonical import (
    BodyForm,
    body_digest,
    body_digests,
    canonical_body,
    relaxed_header,
)
from relayproxy.model.message import Message

ALGORITHMS = {True: dkimpy.Relaxed, False: dkimpy.Simple}

# Pieces that meet at the places where the algorithms do something.
BODIES = st.lists(
    st.sampled_from([b" ", b"\t", b"\r\n", b"x", b"yy", b".", b"\xff", b"   ", b"\r\n\r\n", b" \r\n"])
).map(b"".join)
ODD_BODIES = st.lists(st.sampled_from([b" ", b"\t", b"\r", b"\n", b"x", b"\r\n"])).map(b"".join)


def whole(body, relaxed):
    return b"".join(canonical_body([body], relaxed=relaxed))


def cut(body, places):
    places = sorted({place % (len(body) + 1) for place in places})
    return [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]


@pytest.mark.parametrize(
    ("raw", "relaxed"),
    [
        # the examples of RFC 6376 section 3.4.5
        (b"A: X\r\n", b"a:X\r\n"),
        (b"B : Y\t\r\n\tZ  \r\n", b"b:Y Z\r\n"),
        (b"SUBJect: AbC\r\n", b"subject:AbC\r\n"),
        (b"To:\r\n x\r\n", b"to:x\r\n"),
        (b"To: a:b\r\n", b"to:a:b\r\n"),
        (b"To:\r\n", b"to:\r\n"),
        (b"To: last line of a header without an end", b"to:last line of a header without an end\r\n"),
        (b"X: \xff\r\n", b"x:\xff\r\n"),
    ],
)
def test_relaxed_header(raw, relaxed):
    assert relaxed_header(raw) == relaxed


@given(
    st.text("aB-", min_size=1),
    st.lists(st.sampled_from([b" ", b"\t", b"x", b":", b"\xff", b"\r\n ", b"\r\n\t"])).map(b"".join),
)
def test_relaxed_header_is_that_of_dkimpy(name, value):
    field = name.encode(), value + b"\r\n"
    ((theirs_name, theirs_value),) = dkimpy.Relaxed.canonicalize_headers([field])
    assert relaxed_header(b":".join(field)) == theirs_name + b":" + theirs_value


@pytest.mark.parametrize(
    ("body", "simple", "relaxed"),
    [
        (b" C \r\nD \t E\r\n\r\n\r\n", b" C \r\nD \t E\r\n", b" C\r\nD E\r\n"),  # section 3.4.5
        (b"", b"\r\n", b""),
        (b"\r\n", b"\r\n", b""),
        (b"\r\n\r\n\r\n", b"\r\n", b""),
        (b" \t \r\n \r\n", b" \t \r\n \r\n", b""),
        (b"x\r\n \r\n\t\r\n", b"x\r\n \r\n\t\r\n", b"x\r\n"),
        (b"\r\nx", b"\r\nx\r\n", b"\r\nx\r\n"),
        (b"x  ", b"x  \r\n", b"x\r\n"),
        (b"\t", b"\t\r\n", b""),
    ],
)
def test_bodies(body, simple, relaxed):
    assert whole(body, relaxed=False) == simple
    assert whole(body, relaxed=True) == relaxed


@given(BODIES, st.booleans())
def test_bodies_are_those_of_dkimpy(body, relaxed):
    ended = body if body.endswith(b"\r\n") or not body else body + b"\r\n"
    assert whole(body, relaxed) == ALGORITHMS[relaxed].canonicalize_body(ended)


@given(st.one_of(BODIES, ODD_BODIES), st.lists(st.integers(0, 200)), st.booleans())
def test_it_does_not_matter_where_a_body_was_cut(body, places, relaxed):
    assert b"".join(canonical_body(cut(body, places), relaxed=relaxed)) == whole(body, relaxed)


@given(ODD_BODIES)
def test_simple_keeps_all_but_the_empty_lines_at_the_end(body):
    assert whole(body, relaxed=False) == dkimpy.Simple.canonicalize_body(body)


@given(BODIES, st.sets(st.tuples(st.booleans(), st.none() | st.integers(0, 40)), max_size=6))
def test_digests_are_of_the_first_octets(body, wanted):
    forms = {BodyForm(*one) for one in wanted}
    found = body_digests(Message(b"\r\n", body), forms)
    assert set(found) == forms
    for form, digest in found.items():
        octets = whole(body, form.relaxed)
        assert digest.octets == len(octets)
        assert digest.digest == sha256(octets[: form.limit]).digest()


def test_a_large_body_may_be_a_view_or_come_from_a_reader():
    lines = b"".join(b"%d  words\t and \r\n" % number for number in range(50_000)) + b"\r\n" * 1000
    expected = sha256(dkimpy.Relaxed.canonicalize_body(lines)).digest()
    assert len(lines) > 3 * canonical._PIECE
    assert body_digest(Message(b"\r\n", lines)) == expected
    assert body_digest(Message(b"\r\n", memoryview(lines))) == expected
    read = Message(
        b"\r\n", memoryview(b"not looked at"), reader=lambda: iter([lines[:77_777], lines[77_777:]])
    )
    assert body_digest(read) == expected


@pytest.mark.parametrize(
    "body",
    [b" ", b"\r\n", b" \r\n", b"\t x", b"x", b"\r", b"\n", b"\r\r\n", b" \r"],
    ids=repr,
)
@pytest.mark.parametrize("relaxed", [False, True])
def test_work_is_linear_in_the_octets(body, relaxed, monkeypatch):
    """What is searched and copied stays within a multiple of the input, whatever that is."""
    seen = 0
    collapse, end = canonical._collapse, canonical._end

    def counted(function):
        def count(data):
            nonlocal seen
            seen += len(data)
            return function(data)

        return count

    monkeypatch.setattr(canonical, "_collapse", counted(collapse))
    monkeypatch.setattr(canonical, "_end", counted(end))
    size = 4_000_000
    message = Message(b"\r\n", memoryview(body * (size // len(body))))
    assert body_digests(message, [BodyForm(relaxed)])
    assert seen <= 2 * size + 1000
