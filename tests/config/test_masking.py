"""No secret is ever shown, whatever is wrong with the file round it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayproxy.config.load import load, report
from relayproxy.config.masking import Listing, hidden_lines, is_secret_name
from relayproxy.config.syntax import Span

SECRET = "hunter2XYZ"
HEAD = """\
version: 1
hostname: mx.example.org
listeners:
  - {name: main, listen: "127.0.0.1:2525"}
relay: {domains: [example.org]}
upstreams:
"""
FORMS = [
    "  store: {address: 'h:25', login: u, password: %s}\n",
    "  store:\n    address: h:25\n    password: %s\n",
    "  store:\n    address: h:25\n    password:\n      %s\n",
    "  store:\n    address: h:25\n    password: >\n      %s\n",
    "  store: {address: 'h:25', password: {env: A, file: %s}}\n",
    "  store: {address: 'h:25',\n    password: '%s'\n    , tls: verify}\n",
    "  store:\n    password: {file: [%s]}\n    address: h:25\n",
    '  store:\n    address: h:25\n    "password" : "%s\n',
]


def shown(tmp_path, text: str) -> str:
    path = tmp_path / "relayproxy.yaml"
    path.write_text(text, "utf-8")
    loaded = load(path, environ={})
    return "".join(
        report(loaded, form, color=color) for form in ("text", "json", "github") for color in (True, False)
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "before", ["", "*", "!", "&", "@", "%", "`", "[", "{", "'", '"', "- ", "? ", "a: ", "|"]
)
def test_a_secret_that_breaks_the_file_is_not_shown(tmp_path, form, before):
    assert SECRET not in shown(tmp_path, HEAD + form % (before + SECRET))


@settings(derandomize=True, max_examples=400, deadline=None)
@given(
    st.sampled_from(FORMS), st.integers(0, 400), st.text(":{}[],'\"*&!@%|>#?- \n\tx", min_size=1, max_size=4)
)
def test_a_file_that_is_broken_anywhere_shows_no_secret(tmp_path_factory, form, place, what):
    """Insert anything anywhere, save within the key and the secret themselves."""
    text = HEAD + form % SECRET
    place %= len(text)
    key, secret = text.index("password"), text.index(SECRET)
    if key < place < key + len("password") or secret < place < secret + len(SECRET):
        place = 0
    assert SECRET not in shown(tmp_path_factory.mktemp("any"), text[:place] + what + text[place:])


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "PASSWORD",
        "passwrod",
        "psasword",
        "smtp_pass",
        "pwd",
        "api_key",
        "client-secret",
        "tokens",
        "secrt",
    ],
)
def test_names_of_secrets_also_misspelt(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["address", "pass-through", "listen", "selector", "senders", "key", "recipient_domains", "tls", "login"],
)
def test_other_names(name):
    assert not is_secret_name(name)


def test_what_stands_below_a_secret_is_hidden_too():
    lines = ["a: 1", "password: |", "  one", "", "  two", "b: 2"]
    assert hidden_lines(lines) == {2, 3, 5}


def test_a_long_line_is_cut_round_the_place():
    listing = Listing("x" * 500 + "HERE" + "y" * 500)
    text, caret, length = listing.excerpt(Span(1, 501, 4))
    assert len(text) <= 110
    assert text[caret : caret + length] == "HERE"
    assert text.startswith("...")
    assert text.endswith("...")


def test_control_characters_never_reach_the_terminal():
    text, _, _ = Listing("a:\t\x1b[31mred\x9b").excerpt(Span(1, 1))
    assert text == "a: ?[31mred?"
