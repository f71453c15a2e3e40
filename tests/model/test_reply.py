"""Replies: one line or several, never two replies, whoever wrote the text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.model.reply import Reply, printable, read_reply

CONTROLS = [chr(code) for code in (*range(32), 127) if chr(code) != "\n"]


@pytest.mark.parametrize(
    ("reply", "wire", "shown"),
    [
        (Reply(250, "2.0.0", "Ok"), b"250 2.0.0 Ok\r\n", "250 2.0.0 Ok"),
        (Reply(354, "", "Go on"), b"354 Go on\r\n", "354 Go on"),
        (Reply(220, "", ""), b"220 \r\n", "220 "),
        (Reply(550, "5.7.1", "No\nreally"), b"550-5.7.1 No\r\n550 5.7.1 really\r\n", "550 5.7.1 No / really"),
        (Reply(250, "", "mx\nSIZE 1\nDSN"), b"250-mx\r\n250-SIZE 1\r\n250 DSN\r\n", "250 mx / SIZE 1 / DSN"),
    ],
)
def test_how_a_reply_is_written(reply, wire, shown):
    assert bytes(reply) == wire
    assert bytes(reply) == wire, "the second time it is remembered"
    assert str(reply) == shown


@pytest.mark.parametrize(
    "text", [f"a{control}b" for control in CONTROLS] + ["\r\n250 Ok", "\x85", "é", "\u2028"]
)
def test_a_text_that_could_break_the_line_is_refused(text):
    with pytest.raises(ValueError, match="printable US-ASCII"):
        Reply(550, "5.7.1", text)


@pytest.mark.parametrize(
    "status",
    ["5.7.1\r\n250 Ok", "5.7", "5.7.1 ", "5.7.1\n", "5.1234.1", "5.7.x", "3.0.0", "5,7,1", "\u0665.7.1"],
)
def test_a_status_that_is_none_is_refused(status):
    with pytest.raises(ValueError, match="enhanced status code"):
        Reply(550, status, "No")


@pytest.mark.parametrize(("code", "status"), [(250, "5.1.1"), (450, "5.7.1"), (550, "4.7.1"), (550, "2.0.0")])
def test_a_status_belongs_to_the_class_of_its_code(code, status):
    with pytest.raises(ValueError, match="does not belong"):
        Reply(code, status, "x")


@pytest.mark.parametrize("code", [0, 99, 199, 600, -250, 2500])
def test_a_code_is_one_of_smtp(code):
    with pytest.raises(ValueError, match="not an SMTP reply code"):
        Reply(code, "", "x")


@pytest.mark.parametrize(
    ("code", "ok", "temporary", "permanent"),
    [
        (200, True, False, False),
        (250, True, False, False),
        (354, False, False, False),
        (421, False, True, False),
        (499, False, True, False),
        (500, False, False, True),
        (599, False, False, True),
    ],
)
def test_classes_of_replies(code, ok, temporary, permanent):
    reply = Reply(code, "", "x")
    assert (reply.ok, reply.temporary, reply.permanent) == (ok, temporary, permanent)


@given(
    st.integers(200, 599),
    st.sampled_from(["", "0.0", "7.509", "123.123"]),
    st.text(st.characters(max_codepoint=130), max_size=1200),
)
def test_a_reply_never_becomes_two_and_no_line_is_too_long(code, rest, text):
    status = f"{code // 100}.{rest}" if rest and code // 100 != 3 else ""
    try:
        wire = bytes(Reply(code, status, text))
    except ValueError:
        assert re.search(r"[^ -~\n]", text)
        return
    lines = wire.split(b"\r\n")
    assert lines.pop() == b""
    assert len(lines) == text.count("\n") + 1
    assert all(len(line) <= 510 and b"\r" not in line and b"\n" not in line for line in lines)
    assert {line[:3] for line in lines} == {str(code).encode()}
    assert {line[3:4] for line in lines[:-1]} <= {b"-"}
    assert lines[-1][3:4] == b" "


def test_what_replies_look_like_makes_no_difference_between_them():
    written = Reply(250, "2.0.0", "Ok")
    bytes(written)
    assert written == Reply(250, "2.0.0", "Ok")
    assert hash(written) == hash(Reply(250, "2.0.0", "Ok"))
    assert "_wire" not in repr(written)


@given(st.text(max_size=600), st.integers(0, 500))
def test_foreign_text_becomes_printable(text, limit):
    shown = printable(text, limit)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) == min(len(text), limit)
    Reply(550, "5.7.1", shown)


def test_printable_text_stays_as_it_is():
    assert printable("spf=fail; see https://example.org/?a=b~c") == "spf=fail; see https://example.org/?a=b~c"
    assert printable("grüß\tdich\r\n250 Ok") == "gr???dich??250 Ok"


@given(
    st.integers(200, 599),
    st.sampled_from(["", "5.1.1", "4.2.0", "2.0.0"]),
    st.sampled_from(["", "5.7.1 see"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.just("\n"), max_size=30),
)
def test_what_is_shown_can_be_read(code, status, lead, text):
    if status[:1] != str(code)[0]:
        status = ""
    reply = Reply(code, status, f"{lead}{text}")
    again = read_reply(str(reply))
    assert (again.code, str(again)) == (code, str(reply))
    assert again.status in (status, "5.7.1")


@pytest.mark.parametrize(
    "text", ["", "no", "5.1.1 nobody", " 5.1.1 nobody", "99 x", "550 \x07", "250 2.0.0 ü"]
)
def test_what_is_no_reply_is_not_read(text):
    with pytest.raises(ValueError):
        read_reply(text)
