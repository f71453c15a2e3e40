import base64
import quopri

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.api import Message
from relayproxy.builtin._body_hosts import hosts_of


def hosts(body, head=b"Subject: x\r\n\r\n", most=20):
    return hosts_of(Message.from_bytes(head + body), most)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see http://a.example/x and https://B.example?y", ["a.example", "b.example"]),
        ("http://a.example http://a.example/2", ["a.example"]),
        ("www.a.example/x, or www.b.example.", ["www.a.example", "www.b.example"]),
        ("http://user:pw@evil.example:8080/good.example", ["evil.example"]),
        ("http://good.example@evil.example/", ["evil.example"]),
        ("http://%65vil.example/", ["evil.example"]),
        ("http://b\u00fccher.example/", ["xn--bcher-kva.example"]),
        ("http://192.0.2.1/ http://[2001:db8::1]/", ["192.0.2.1", "2001:db8::1"]),
        ('<a href="https://a.example">text</a>', ["a.example"]),
        ("http:\\\\a.example\\x", ["a.example"]),
        ("a.example mailto:b@c.example http:// http://localhost/", []),
    ],
)
def test_what_a_reader_could_click(text, found):
    assert hosts(text.encode()) == found


def test_no_more_than_wanted():
    body = " ".join(f"http://h{number}.example/" for number in range(50)).encode()
    assert hosts(body, most=3) == ["h0.example", "h1.example", "h2.example"]


@pytest.mark.parametrize("coding", ["base64", "quoted-printable"])
def test_encodings_are_undone(coding):
    text = b"Hello =\r\n" * 20 + b"http://a-rather-long-name.of-a-host.example/with/a/path/that/folds?x=y\r\n"
    encoded = base64.encodebytes(text) if coding == "base64" else quopri.encodestring(text)
    body = encoded.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    head = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: " + coding.encode() + b"\r\n\r\n"
    assert hosts(body, head) == ["a-rather-long-name.of-a-host.example"]
    outer = b'Content-Type: multipart/mixed;\r\n boundary="o u t"\r\n\r\n'
    inner = (
        b"--o u t\r\nContent-Type: multipart/alternative; boundary=in\r\n\r\n"
        b"--in\r\n" + head + body + b"\r\n--in\r\nContent-Type: text/html\r\n\r\n"
        b"<a href=http://second.example>\r\n--in--\r\n--o u t--\r\n"
    )
    assert hosts(inner, outer) == ["a-rather-long-name.of-a-host.example", "second.example"]


def test_what_is_no_text_is_not_read():
    head = b"Content-Type: image/png\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    assert hosts(b"http://a.example/", head) == []


def test_only_so_much_is_read():
    body = b"x" * 300_000 + b" http://late.example/"
    assert hosts(b"http://early.example/ " + body) == ["early.example"]


@given(st.binary(max_size=400), st.sampled_from([b"base64", b"quoted-printable", b"8bit", b"\xff"]))
def test_nothing_stops_it(body, coding):
    head = b'Content-Type: multipart/x; boundary="b"\r\nContent-Transfer-Encoding: ' + coding + b"\r\n\r\n"
    for piece in (body, b"--b\r\n" + body, b"http://" + body):
        assert all(isinstance(host, str) for host in hosts(piece, head))
