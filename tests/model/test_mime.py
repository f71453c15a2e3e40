import email
import email.policy

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relayproxy.model import mime
from relayproxy.model.message import Message
from relayproxy.model.mime import Oddity, read_tree
from relayproxy.model.mime_content import decoded_octets, encoded_octets
from relayproxy.model.mime_fields import describe


def message(text):
    return Message.from_bytes(text.replace("\n", "\r\n").encode())


def mixed(body, boundary="a", more=""):
    return message(f"Subject: x\nContent-Type: multipart/mixed; boundary={boundary}{more}\n\n{body}")


NESTED = """pre
--a
Content-Type: text/plain

one
--a
Content-Type: multipart/alternative; boundary=b

--b

two
--b
Content-Type: text/html

three
--b--
epilogue of b
--a
Content-Type: message/rfc822

Subject: inner
Content-Type: multipart/mixed; boundary=c

--c
Content-Type: application/pdf

four
--c--
--a--
the end
"""


def test_a_nested_message():
    mail = mixed(NESTED)
    tree = read_tree(mail)
    assert tree.oddities == frozenset()
    assert not tree.unseen
    leaves = [(part.depth, part.type, encoded_octets(mail, part)) for part in tree.root.leaves()]
    assert leaves == [
        (1, "text/plain", b"one"),
        (2, "text/plain", b"two"),
        (2, "text/html", b"three"),
        (3, "application/pdf", b"four"),
    ]
    assert [part.type for part in tree.root.walk()][-2:] == ["multipart/mixed", "application/pdf"]


def test_it_sees_what_the_standard_library_sees():
    mail = mixed(NESTED)
    other = email.message_from_bytes(bytes(mail), policy=email.policy.SMTP)
    theirs = [
        (part.get_content_type(), part.get_payload()) for part in other.walk() if not part.is_multipart()
    ]
    ours = [(part.type, encoded_octets(mail, part).decode()) for part in read_tree(mail).root.leaves()]
    assert ours == theirs


def test_a_part_is_a_place_in_the_body():
    mail = mixed(NESTED)
    html = next(part for part in read_tree(mail).root.walk() if part.type == "text/html")
    assert mail.body_part(html.start, html.stop) == b"Content-Type: text/html\r\n\r\nthree"
    assert bytes(mail.body)[html.stop :].startswith(b"\r\n--b--")


@pytest.mark.parametrize(
    ("mail", "oddity"),
    [
        (mixed("--a\n\none\n"), Oddity.UNTERMINATED),
        (mixed("no parts\n"), Oddity.NO_PARTS),
        (mixed("--a--\n"), Oddity.NO_PARTS),
        (message("Content-Type: multipart/mixed\n\n--a\n\none\n--a--\n"), Oddity.NO_BOUNDARY),
        (mixed("--a\n\none\n--a--\n", more="; boundary=b"), Oddity.BOUNDARY_CONFLICT),
        (mixed("--a\n\none\n--a--\n", more="\nContent-Type: text/html"), Oddity.REPEATED_FIELD),
        (mixed(f"--{'x' * 80}\n\n--{'x' * 80}--\n", boundary="x" * 80), Oddity.BAD_BOUNDARY),
        (mixed("x\n", boundary="x" * 201), Oddity.BAD_BOUNDARY),
        (
            mixed("--a\nContent-Type: multipart/mixed; boundary=a\n\n--a\n\n--a--\n--a--\n"),
            Oddity.SAME_BOUNDARY,
        ),
        (
            mixed('--a\nContent-Type: multipart/mixed; boundary="a--"\n\n--a--\n\n--a----\n--a--\n'),
            Oddity.PREFIX_BOUNDARY,
        ),
        (message("Content-Transfer-Encoding: x-uuencode\n\nx\n"), Oddity.UNKNOWN_ENCODING),
        (
            message("Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\neA==\n"),
            Oddity.ENCODED_MESSAGE,
        ),
        (
            mixed("--a\n\nx\n--a--\n", more="\nContent-Transfer-Encoding: base64"),
            Oddity.ENCODED_MULTIPART,
        ),
        (mixed("--a\nContent-Type: text/plain\n--a--\n"), Oddity.HEADER_UNENDED),
        (mixed("--a\n--a--\n"), Oddity.HEADER_UNENDED),
        (mixed("--a\nno field\n\nx\n--a--\n"), Oddity.NO_FIELD),
        (mixed("--a\nX: y\nno field\nZ: y\n\nx\n--a--\n"), Oddity.NO_FIELD),
        (mixed("--a\nX: y"), Oddity.HEADER_UNENDED),
    ],
)
def test_what_is_odd(mail, oddity):
    assert oddity in read_tree(mail).oddities


def test_a_header_that_ends_at_a_delimiter_leaves_its_line_end_to_it():
    mail = mixed("--a\nContent-Type: text/html\n--a\n\nnext\n--a--\n")
    first, second = read_tree(mail).root.children
    assert (first.type, first.size, encoded_octets(mail, second)) == ("text/html", 0, b"next")
    assert mail.body_part(first.start, first.stop) == b"Content-Type: text/html"


def test_the_parts_of_a_digest_are_messages():
    mail = mixed("--a\n\nSubject: one\n\nfirst\n--a\nContent-Type: text/plain\n\nSubject: two\n\n--a--\n")
    mail = Message.from_bytes(bytes(mail).replace(b"multipart/mixed", b"multipart/digest"))
    assert [part.type for part in read_tree(mail).root.walk()] == [
        "multipart/digest",
        "message/rfc822",
        "text/plain",
        "text/plain",
    ]


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("text", "text/plain"),
        ("", "text/plain"),
        ("a/b/c", "text/plain"),
        ("multipart; boundary=a", "multipart/mixed"),
        ("multipart", "text/plain"),
        ("Image/PNG", "image/png"),
    ],
)
def test_what_is_no_type(value, read):
    assert describe(f"Content-Type: {value}\r\n".encode()).type == read


def nested(levels):
    lines = []
    for level in range(levels):
        lines += [f"--b{level}", f"Content-Type: multipart/mixed; boundary=b{level + 1}", ""]
    return mixed("\n".join(lines), boundary="b0")


def test_a_bomb_of_levels_ends_at_the_limit():
    tree = read_tree(nested(2000))
    assert max(part.depth for part in tree.root.walk()) == mime.DEEPEST
    assert Oddity.TOO_DEEP in tree.oddities
    assert tree.unseen


def test_messages_within_messages_end_at_the_limit():
    tree = read_tree(message("Content-Type: message/rfc822\n\n" * 2000))
    assert max(part.depth for part in tree.root.walk()) == mime.DEEPEST
    assert Oddity.TOO_DEEP in tree.oddities


def test_a_bomb_of_parts_ends_at_the_limit():
    tree = read_tree(mixed("--a\n\n\n" * 100_000))
    assert len(tree.root.children) == mime.MOST_PARTS
    assert Oddity.TOO_MANY_PARTS in tree.oddities


def test_a_bomb_of_lines_ends_at_the_limit():
    tree = read_tree(mixed("--\n" * (mime.MOST_LINES + 2)))
    assert Oddity.TOO_MANY_LINES in tree.oddities


def test_a_bomb_of_headers_ends_at_the_limit():
    part = "--a\n" + "X: y\n" * 13_000 + "\nbody\n"
    tree = read_tree(mixed(part * 20))
    assert Oddity.TOO_MUCH_HEADER in tree.oddities
    assert sum(part.body - part.start for part in tree.root.children) <= mime.ALL_HEADERS
    assert Oddity.TOO_MUCH_HEADER in read_tree(mixed("--a\n" + "X: y\n" * 14_000 + "\nb\n--a--\n")).oddities


@pytest.mark.parametrize(
    ("encoding", "content", "decoded"),
    [
        ("base64", b"aGVs\r\nbG8=\r\n", b"hello"),
        ("base64", b"aGVsbG8", b"hello"),
        ("base64", b"aGVsb*G8h!!Q", b"hello!"),
        ("BASE64 (really)", b"aGVsbG8=", b"hello"),
        ("quoted-printable", b"h=65llo=\r\n!", b"hello!"),
        ("8bit", b"h\xe9", b"h\xe9"),
        ("odd", b"aGVsbG8=", b"aGVsbG8="),
    ],
)
def test_decoding(encoding, content, decoded):
    mail = Message.from_bytes(b"Content-Transfer-Encoding: " + encoding.encode() + b"\r\n\r\n" + content)
    assert decoded_octets(mail, read_tree(mail).root) == decoded


def test_decoding_the_beginning():
    mail = Message.from_bytes(b"Content-Transfer-Encoding: base64\r\n\r\n" + b"QUFB" * 1000)
    assert decoded_octets(mail, read_tree(mail).root, 8) == b"AAAAAA"


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("filename=a.exe", {"a.exe"}),
        ('filename="a b.exe"', {"a b.exe"}),
        ("filename=a.exe b.txt", {"a.exe", "a.exe b.txt"}),
        ('filename="a.exe', {"a.exe"}),
        ('filename="a.exe; x=y', {"a.exe", "a.exe; x=y"}),
        (r'filename="a\.exe"', {"a.exe", r"a\.exe"}),
        ("filename*=utf-8''a%2Eexe", {"a.exe"}),
        ("filename*0=a.; filename*1=e; filename*2=xe", {"a.exe"}),
        ("filename*1=exe; filename*0=a.", {"a.exe"}),
        ("filename*0*=utf-8''a%2E; filename*1=exe", {"a.exe"}),
        ("filename*=iso-8859-1'de'%E4.exe", {"\xe4.exe"}),
        ("filename*=no-such-charset''a.exe", {"a.exe"}),
        ("filename*=hex_codec''a.exe", {"a.exe"}),
        ("filename=a.txt; filename*=utf-8''a.exe", {"a.txt", "a.exe"}),
        ("filename=a.txt; filename=a.exe", {"a.txt", "a.exe"}),
        ('filename="=?utf-8?B?YS5leGU=?="', {"a.exe", "=?utf-8?B?YS5leGU=?="}),
        ("filename==?utf-8?Q?a=2Eexe?=", {"a.exe", "=?utf-8?Q?a=2Eexe?="}),
        ("name=a.exe", {"a.exe"}),
        ("FileName = a.exe", {"a.exe"}),
        ("x=y\r\n\t;\r\n filename=a.exe", {"a.exe"}),
        ("filename=", set()),
    ],
)
def test_every_reading_of_a_name(value, names):
    head = f"Content-Disposition: attachment; {value}\r\n".encode()
    assert set(describe(head).names) == names
    assert (
        set(describe(b"Content-Type: x/y; " + head.partition(b"; ")[2].replace(b"filename", b"name")).names)
        == names
    )


def test_names_are_limited():
    many = describe(b"Content-Disposition: x" + b"".join(b";filename=%d" % n for n in range(1000)) + b"\r\n")
    assert len(many.names) == 20
    long = describe(b"Content-Disposition: x; filename=" + b"a" * 5000 + b"\r\n")
    assert [len(name) for name in long.names] == [1000]


def test_what_a_header_says():
    said = describe(
        b'Content-Type: TEXT/Html (really); charset="UTF-8"\r\nX-Content-Type: no/no\r\n'
        b"Content-Disposition: Inline\r\nContent-Transfer-Encoding: Base64\r\n"
    )
    assert (said.type, said.charset, said.disposition, said.encoding) == (
        "text/html",
        "utf-8",
        "inline",
        "base64",
    )


PIECES = [
    b"\r\n",
    b"--a",
    b"--",
    b"Content-Type: multipart/mixed; boundary=",
    b"a",
    b"b",
    b"message/rfc822",
    b"\xff",
]
PIECES += [b"Content-Type: ", b"Content-Transfer-Encoding: base64", b'"', b"; filename*0*=", b" ", b"x"]


@given(st.lists(st.sampled_from(PIECES)).map(b"".join))
@example(b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n--a")
def test_any_octets_give_a_tree_of_places_in_the_body(data):
    mail = Message.from_bytes(b"Content-Type: multipart/mixed; boundary=a\r\n\r\n" + data)
    for part in read_tree(mail).root.walk():
        assert 0 <= part.start <= part.body <= part.stop <= len(mail.body)
        ends = [(child.start, child.stop) for child in part.children]
        assert ends == sorted(ends)
        assert all(part.body <= child.start and child.stop <= part.stop for child in part.children)
        decoded_octets(mail, part)


@given(st.lists(st.sampled_from(PIECES)).map(b"".join), st.integers(1, 50))
def test_a_body_that_came_in_pieces_is_read_alike(data, size):
    head = b"Content-Type: multipart/mixed; boundary=a\r\n\r\n"
    raw = head + data
    whole = Message.from_bytes(raw)
    pieces = Message.from_pieces([head, *(data[n : n + size] for n in range(0, len(data), size))])
    assert bytes(pieces) == raw
    assert read_tree(pieces) == read_tree(whole)
