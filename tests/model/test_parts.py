"""The MIME parts as rules see them: names in every disguise, and an end to what never ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.model.message import Message
from relayproxy.model.parts import DEEPEST, MOST_PARTS, parts_of


def parts(raw):
    return parts_of(Message.from_bytes(raw))


def part_named(parameters):
    (part,) = parts(
        b"Content-Type: application/octet-stream\r\nContent-Disposition: attachment"
        + parameters
        + b"\r\n\r\nx"
    )
    return part.name


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (b"; filename=a.exe", "a.exe"),
        (b'; filename="a \\"b\\".exe"', 'a "b".exe'),
        (b";\r\n filename=a.exe", "a.exe"),
        (b'; FileName = "a.exe"', "a.exe"),
        (b'; filename="=?utf-8?b?YS5leGU=?="', "a.exe"),
        (b"; filename*=utf-8''a%2Eexe", "a.exe"),
        (b"; filename*=iso-8859-1'en'%E9.exe", "é.exe"),
        (b"; filename*=nonsense'en'%41.exe", "A.exe"),
        (b'; filename*0="a."; filename*1="exe"', "a.exe"),
        (b"; filename*1*=%65xe; filename*0*=utf-8''a.", "a.exe"),
        (b"; filename=harmless.txt; filename*=utf-8''a.exe", "a.exe"),
        (b'; filename="photo\xe2\x80\xaegpj.exe"', "photo\u202egpj.exe"),
    ],
)
def test_names(parameters, name):
    assert part_named(parameters) == name


def test_the_extension_is_what_windows_takes_it_for():
    (part,) = parts(b'Content-Type: text/plain; name="a.exe. "\r\n\r\n')
    assert part.extension == "exe"
    (part,) = parts(b"Content-Type: text/plain; name=.bashrc\r\n\r\n")
    assert part.extension == ""


def test_a_message_of_one_part():
    (part,) = parts(b"Subject: x\r\n\r\nhello")
    assert (part.type, part.name, part.size, part.depth, part.is_attachment) == (
        "text/plain",
        "",
        5,
        0,
        False,
    )


TREE = (
    b"Content-Type: multipart/mixed; boundary=a\r\n\r\npreamble\r\n--a\r\nContent-Type: multipart/alternative;\r\n"
    b' boundary="ab"\r\n\r\n--ab\r\n\r\none\r\n--ab\r\nContent-Type: text/html\r\n\r\n<p>\r\n--ab--\r\n--a\r\n'
    b"Content-Type: message/rfc822\r\n\r\nContent-Type: application/pdf; name=in.pdf\r\n\r\nx\r\n--a--\r\nafter\r\n"
)


def test_a_tree_whose_boundaries_begin_alike():
    found = [(part.type, part.name, part.depth) for part in parts(TREE)]
    assert found == [("text/plain", "", 2), ("text/html", "", 2), ("application/pdf", "in.pdf", 2)]


def test_a_tree_without_an_end():
    raw = b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\nContent-Type: image/png; name=b.png\r\n\r\nx"
    assert [part.name for part in parts(raw)] == ["b.png"]


def test_very_deep_and_very_many():
    raw = b""
    for level in range(100):
        raw += b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level)
    (part,) = parts(raw)
    assert (part.depth, part.type) == (DEEPEST, "multipart/mixed")
    many = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 5000
    assert len(parts(many)) == MOST_PARTS - 1
    empty = (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
        + b"--b\r\nContent-Type: multipart/x; boundary=c\r\n\r\n" * 5000
    )
    assert len(parts(empty)) <= 1


@given(
    st.lists(
        st.sampled_from([TREE[n : n + 9] for n in range(0, len(TREE), 9)] + [b"\r\n", b"--a", b"--ab--"])
    ).map(b"".join)
)
def test_it_never_raises(raw):
    for part in parts(b"Content-Type: multipart/mixed; boundary=a\r\n\r\n" + raw):
        assert part.size <= len(raw)
