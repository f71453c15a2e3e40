"""What a next hop says, and what is no reply at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.model.reply import Reply
from relayproxy.smtp.replies import MAX_LINES, NonsenseError, ReplyReader

STREAM = (
    b"250 2.1.0 Ok\r\n550-5.1.1 No\r\n550-5.1.1 such\r\n550 5.1.1 user\r\n354 go\r\n250\r\n421 4.3.2 bye\n"
)
REPLIES = [
    Reply(250, "2.1.0", "Ok"),
    Reply(550, "5.1.1", "No\nsuch\nuser"),
    Reply(354, "", "go"),
    Reply(250, "", ""),
    Reply(421, "4.3.2", "bye"),
]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_replies_are_read_however_they_arrive(cuts):
    reader, heard, position, turn = ReplyReader(), [], 0, 0
    while position < len(STREAM):
        size = cuts[turn % len(cuts)]
        heard += reader.feed(STREAM[position : position + size])
        position, turn = position + size, turn + 1
    assert heard == REPLIES
    assert reader.idle


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n",
        b"25 x\r\n",
        b"650 x\r\n",
        b"250-a\r\n251 b\r\n",
        b"\r\n",
        b"250x\r\n",
        b"HTTP/1.1 200 OK\r\n",
    ],
)
def test_nonsense_is_called_nonsense(data):
    with pytest.raises(NonsenseError):
        ReplyReader().feed(data)


def test_what_came_before_the_nonsense_counts():
    with pytest.raises(NonsenseError) as caught:
        ReplyReader().feed(b"250 Ok\r\ngarbage\r\n")
    assert caught.value.replies == [Reply(250, "", "Ok")]


def test_replies_are_bounded():
    with pytest.raises(NonsenseError):
        ReplyReader().feed(b"250-x\r\n" * (MAX_LINES + 1))
    with pytest.raises(NonsenseError):
        ReplyReader().feed(b"250 " + b"x" * 40_000)


def test_foreign_words_become_printable_and_a_false_status_stays_text():
    assert ReplyReader().feed("550 5.7.1 grüße \x1b[31m\r\n".encode())[0].text == "gr?e ?[31m".replace(
        "gr?e", "gr??e"
    )
    assert ReplyReader().feed(b"250 5.1.1 odd\r\n")[0] == Reply(250, "", "5.1.1 odd")


@given(st.integers(200, 599), st.text(max_size=30))
def test_a_reply_never_becomes_two(code, text):
    try:
        reply = Reply(code, "", text)
    except ValueError:
        return
    assert bytes(reply).count(b"\r\n") == text.count("\n") + 1
    assert all(line[:3] == str(code).encode() for line in bytes(reply).splitlines())
