import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.mailauth.unsubscribe_token import TokenFault, Unsubscription, make_token, read_token

KEY, OTHER = b"a key of ours", b"another key"
DAY = 86_400
NOW = 20_000 * DAY + 5
LINE = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=50)


@given(LINE, LINE)
def test_what_was_made_is_read(list_id, recipient):
    token = make_token(KEY, list_id, recipient, NOW)
    assert token.replace("-", "").replace("_", "").replace(".", "").isalnum()
    assert read_token(token, (OTHER, KEY), NOW) == Unsubscription(list_id, recipient, 20_000)


def test_a_token_that_others_can_check():
    token = make_token(KEY, "news.example.org", "a@example.net", NOW)
    payload = base64.urlsafe_b64decode(token.partition(".")[0] + "==")
    assert payload == b"2\n20000\nnews.example.org\na@example.net\nglobal"


TOKEN = make_token(KEY, "l", "a@example.net", NOW)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (make_token(OTHER, "l", "a@example.net", NOW), "not made here"),
        ("A" + TOKEN[1:], "not made here"),
        (TOKEN[:-1], "malformed|not made here"),
        (TOKEN + "!", "malformed"),
        ("", "malformed"),
        ("a", "malformed"),
        (".", "not made here"),
        ("\xe4." + TOKEN, "malformed"),
        ("a" * 5000 + "." + TOKEN, "malformed"),
    ],
)
def test_a_token_that_is_not_good(token, said):
    with pytest.raises(TokenFault, match=said):
        read_token(token, (KEY,), NOW)


def who_unsubscribes(token: str, now: float) -> Unsubscription | None:
    try:
        return read_token(token, [b"a key of ours"], now, days=90)
    except TokenFault:
        return None


def test_the_example_of_the_page():
    assert who_unsubscribes(TOKEN, NOW).recipient == "a@example.net"
    assert who_unsubscribes(TOKEN, NOW + 91 * DAY) is None


def test_a_token_gets_old():
    assert read_token(TOKEN, (KEY,), NOW + 30 * DAY, days=30).day == 20_000
    with pytest.raises(TokenFault, match="good for 30 days"):
        read_token(TOKEN, (KEY,), NOW + 31 * DAY, days=30)


def test_an_empty_key_makes_and_reads_nothing():
    with pytest.raises(ValueError, match="needs a key"):
        make_token(b"", "l", "a", NOW)
    with pytest.raises(TokenFault):
        read_token(TOKEN, (b"",), NOW)
    with pytest.raises(ValueError, match="line end"):
        make_token(KEY, "l\n", "a", NOW)


@given(st.text(max_size=60))
def test_any_text_is_refused(text):
    with pytest.raises(TokenFault):
        read_token(text, (KEY,), NOW)
