import pytest
from tests.builtin.scanning import RAW

from relayproxy.api import (
    AddHeader,
    DropHeader,
    Finding,
    Message,
    ReplaceBody,
    ReplaceHeader,
    ServiceError,
)
from relayproxy.builtin._changes import Kept, added, dropped, fit, replaced, weight
from relayproxy.model.edits import apply_to_message
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.mail import make_mail


def mail_called(name, findings=()):
    mail = make_mail(RAW, findings=findings)
    mail.id = name
    return mail


def test_a_value_is_kept_for_its_message_until_it_is_dropped():
    kept = Kept(FakeClock().monotonic)
    mail = mail_called("a")
    kept.put(mail, 1)
    assert kept.get(mail, "x") == kept.get(mail.view(), "x") == 1
    kept.drop(mail)
    kept.drop(mail)
    assert kept.get(mail, "x") is None


def test_values_of_messages_that_were_refused_are_forgotten():
    clock = FakeClock()
    kept = Kept(clock.monotonic)
    for name in ("a", "b", "a"):
        kept.put(mail_called(name), name)
        clock.advance(200)
    kept.put(mail_called("c"), "c")
    assert [kept.get(mail_called(name), "x") for name in "abc"] == ["a", None, "c"]


def test_there_is_room_for_so_many_octets():
    kept = Kept(FakeClock().monotonic)
    for number in range(100):
        kept.put(mail_called(str(number)), number, 1024 * 1024)
    assert 60 <= len(kept) <= 64
    assert kept.get(mail_called("99"), "x") == 99
    with pytest.raises(ServiceError, match="no longer known"):
        kept.get(mail_called("0", [Finding("x", "hit")]), "x")
    kept.put(mail_called("large"), 0, 100 * 1024 * 1024)
    assert len(kept) == 1
    for number in range(100_000):
        kept.put(mail_called("same"), number)
    assert len(kept) == 1


def test_a_message_that_was_asked_about_does_not_leave_without_what_was_wanted():
    kept = Kept(FakeClock().monotonic)
    seen = mail_called("a", [Finding("x", "hit")])
    with pytest.raises(ServiceError, match="no longer known"):
        kept.get(seen, "x")
    assert kept.get(mail_called("a"), "x") is None


@pytest.mark.parametrize(
    ("value", "fitted"),
    [
        ("plain", "plain"),
        ("a\n\tb", "a\r\n\tb"),
        ("a\r\n b", "a\r\n b"),
        ("a\rb", "a\r\n b"),
        ("a\nSubject: forged", "a\r\n Subject: forged"),
        ("a\n\n\n b", "a\r\n b"),
        ("a\0b\x7f", "a?b?"),
        ("", ""),
        ("a\n", "a"),
    ],
)
def test_a_foreign_value_fits_into_an_edit(value, fitted):
    assert fit(value) == fitted
    message = apply_to_message(Message.from_bytes(RAW), [added("X-New", value)])
    assert [field.name for field in message.fields] == ["X-New", "From", "Message-ID", "Subject"]


def test_a_name_that_is_none_is_the_services_fault():
    for make in (added, replaced):
        with pytest.raises(ServiceError, match="header field that can't be"):
            make("X:\r\nY", "x")
    assert added("X", "y", bottom=True) == AddHeader("X", "y", bottom=True)
    assert replaced("X", "y", 2) == ReplaceHeader("X", "y", 2)


@pytest.mark.parametrize(
    ("number", "left"),
    [(0, b""), (1, b"2,3"), (3, b"1,2"), (-1, b"1,2"), (-3, b"2,3"), (4, b"1,2,3"), (-4, b"1,2,3")],
)
def test_fields_are_counted_from_the_top_or_the_bottom(number, left):
    message = Message.from_bytes(b"X: 1\r\nX: 2\r\nY: y\r\nX: 3\r\n\r\n")
    after = apply_to_message(message, dropped(message, "x", number))
    assert b",".join(field.value.encode() for field in after.all("X")) == left


def test_what_is_not_there_needs_no_edit():
    assert dropped(Message.from_bytes(RAW), "X-None", 0) == []
    assert dropped(Message.from_bytes(RAW), "From", 0) == [DropHeader("From")]


def test_a_body_weighs_what_it_holds():
    assert weight([ReplaceBody(b"x" * 5000), DropHeader("X")]) == 6024
