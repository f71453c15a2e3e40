"""The values: frozen, slotted, and copied whole."""

import dataclasses
import importlib
import pkgutil

import pytest

import relayproxy.model
from relayproxy.model.address import NULL_SENDER, Address
from relayproxy.model.client import Client, Credentials, TlsInfo
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.finding import RESULTS, Finding
from relayproxy.model.mail import Direction, Mail, Origin
from relayproxy.model.message import Message
from relayproxy.model.outcome import Outcome, State, outcome_of, state_of
from relayproxy.model.reply import Reply

MODULES = [
    importlib.import_module(f"relayproxy.model.{info.name}")
    for info in pkgutil.iter_modules(relayproxy.model.__path__)
]
VALUES = sorted(
    {
        value
        for module in MODULES
        for value in vars(module).values()
        if isinstance(value, type) and dataclasses.is_dataclass(value)
    },
    key=lambda value: value.__name__,
)


def test_there_are_values():
    assert len(VALUES) >= 18


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.__name__)
def test_a_value_is_frozen_and_slotted(value):
    assert value.__dataclass_params__.frozen
    assert "__slots__" in vars(value)
    assert value.__doc__
    assert not value.__doc__.startswith(f"{value.__name__}(")


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_module_says_what_it_is_for(module):
    assert module.__doc__


def distinct(value):
    """Fill every field of a value with something of its own."""
    return value(**{field.name: f"{field.name}!" for field in dataclasses.fields(value)})


def test_a_greeted_client_keeps_all_but_its_greeting():
    client = distinct(Client)
    assert client.greeted("name", "ESMTP") == dataclasses.replace(client, helo="name", proto="ESMTP")


def test_an_envelope_to_others_keeps_all_but_its_recipients():
    envelope = distinct(Envelope)
    assert envelope.to(()) == dataclasses.replace(envelope, recipients=())


def test_a_password_is_not_shown():
    credentials = Credentials("PLAIN", "ana", "hunter2")
    assert "hunter2" not in repr(credentials)
    assert "hunter2" not in f"{credentials}"
    assert "ana" in repr(credentials)


# -- addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "text", "key", "ascii_domain", "utf8"),
    [
        (Address("Ana", "Example.ORG"), "Ana@Example.ORG", "Ana@example.org", "example.org", False),
        (
            Address("ana", "Bücher.example"),
            "ana@Bücher.example",
            "ana@xn--bcher-kva.example",
            "xn--bcher-kva.example",
            True,
        ),
        (Address("grüße", "example.org"), "grüße@example.org", "grüße@example.org", "example.org", True),
        (
            Address("ana", "faß.example"),
            "ana@faß.example",
            "ana@xn--fa-hia.example",
            "xn--fa-hia.example",
            True,
        ),
        (Address("ana", "ü..example"), "ana@ü..example", "ana@ü..example", "ü..example", True),
        (Address('"a b"', "example.org"), '"a b"@example.org', '"a b"@example.org', "example.org", False),
        (Address("a", "[192.0.2.1]"), "a@[192.0.2.1]", "a@[192.0.2.1]", "[192.0.2.1]", False),
        (Address("Postmaster", ""), "Postmaster", "Postmaster", "", False),
        (NULL_SENDER, "", "", "", False),
    ],
)
def test_addresses(address, text, key, ascii_domain, utf8):
    assert str(address) == text
    assert address.key == key
    assert address.ascii_domain == ascii_domain
    assert address.needs_utf8 is utf8


def test_the_null_sender_is_false_and_nothing_else():
    assert not NULL_SENDER
    assert Address("postmaster", "")
    assert Address("a", "[192.0.2.1]").is_literal
    assert not Address("a", "b.example").is_literal


# -- findings -------------------------------------------------------------------------------------------------------


def test_the_words_for_results_are_known():
    for result in RESULTS:
        assert Finding("spf", result).result == result
    with pytest.raises(ValueError, match="'maybe' is not a result; use one of fail, hit, miss"):
        Finding("spf", "maybe")


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": None},
        {"score": "1.5"},
        {"score": None},
        {"reason": b"octets"},
        {"props": {"header.d": 1}},
        {"props": {1: "one"}},
    ],
    ids=repr,
)
def test_a_finding_of_the_wrong_types_is_noticed_where_it_is_made(wrong):
    with pytest.raises(TypeError):
        Finding(**{"method": "spf", "result": "pass", **wrong})


# -- mail -----------------------------------------------------------------------------------------------------------


def a_mail(**changes):
    client = Client("c", "l", "192.0.2.1", tls=TlsInfo("TLSv1.3", "X", 256))
    return Mail("c.1", client, Envelope(), Message(b"A: b\r\n\r\n"), **changes)


def test_a_view_sees_all_and_notes_for_itself():
    mail = a_mail(
        origin=Origin.DSN,
        direction=Direction.OUTBOUND,
        received_at=7.0,
        findings=(Finding("spf", "pass", 1.0),),
    )
    view = mail.view()
    for name in Mail.__slots__:
        if name != "noted":
            assert getattr(view, name) is getattr(mail, name), name
    view.note("dkim", "fail", score=2.0, reason="broken", header__d="example.org")
    assert mail.noted == []
    assert mail.finding("dkim") is None
    assert view.noted == [Finding("dkim", "fail", 2.0, {"header.d": "example.org"}, "broken")]


def test_the_latest_finding_counts_and_scores_add_up():
    mail = a_mail(
        findings=(Finding("spf", "fail", 2.0), Finding("dkim", "pass"), Finding("spf", "pass", -0.5))
    )
    assert mail.finding("spf").result == "pass"
    assert mail.finding("dkim").result == "pass"
    assert mail.finding("arc") is None
    assert mail.score == 1.5


# -- outcomes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (250, State.DONE),
        (299, State.DONE),
        (354, State.PENDING),
        (421, State.PENDING),
        (450, State.PENDING),
        (500, State.FAILED),
        (554, State.FAILED),
    ],
)
def test_what_a_final_reply_means(code, state):
    reply = Reply(code, "", "x")
    recipient = Recipient(Address("b", "example.net"))
    assert state_of(reply) is state
    assert outcome_of(recipient, reply, "store") == Outcome(recipient, state, reply, "store")
