import pytest
from hypothesis import given, strategies

from relayproxy.model.legible import legible


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("plain", "plain"),
        ("Grüße", "Grüße"),
        ("\x1b[2Jclear\r\nFrom: me", "\ufffd[2Jclear\ufffd\ufffdFrom: me"),
        ("a\u202egnp.exe", "a\ufffdgnp.exe"),
        ("x" * 120, "x" * 120),
        ("x" * 500, "x" * 119 + "…"),
    ],
)
def test_what_strangers_wrote_can_not_act_on_a_terminal(text, printed):
    assert legible(text) == printed


@given(strategies.text(), strategies.integers(1, 20))
def test_it_is_printable_and_ends(text, limit):
    made = legible(text, limit)
    assert made.isprintable()
    assert len(made) == min(len(text), limit)
