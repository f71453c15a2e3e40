"""The JSON contract, whatever carries it."""

import base64
import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builtin.scanning import RAW

from relayproxy.api import (
    Action,
    AddHeader,
    AddRecipient,
    DropHeader,
    DropRecipient,
    Finding,
    Recipient,
    ReplaceBody,
    ReplaceHeader,
    ServiceError,
    SetSender,
    TlsInfo,
)
from relayproxy.builtin._script import facts, read, written
from relayproxy.testing.mail import make_address, make_mail

TOLD = {
    "version": 1,
    "hook": "rcpt",
    "id": "test.1",
    "direction": "inbound",
    "client": {
        "ip": "192.0.2.1",
        "port": 49152,
        "ptr": "",
        "helo": "client.example.org",
        "proto": "ESMTP",
        "listener": "inbound",
        "identity": "me",
        "tls": {"version": "TLSv1.3", "cipher": "AES", "bits": 128, "verified": False},
    },
    "envelope": {
        "sender": "a@example.org",
        "recipients": ["b@example.net", "c@example.net"],
        "body": "",
        "smtputf8": False,
        "requiretls": False,
    },
    "recipient": "c@example.net",
    "score": 0.5,
    "findings": [
        {
            "method": "spf",
            "result": "pass",
            "score": 0.5,
            "reason": "why",
            "props": {"smtp.mailfrom": "a@example.org"},
            "by": "spf",
        }
    ],
    "headers": [["From", "<a@example.org>"], ["Message-ID", "<1@example.org>"], ["Subject", "x"]],
    "size": 73,
}


def decided(may_edit=True, **answer):
    return read(orjson.dumps(answer), may_edit=may_edit)


def test_what_a_script_is_told():
    mail = make_mail(
        RAW,
        recipients=["b@example.net", "c@example.net"],
        identity="me",
        tls=TlsInfo("TLSv1.3", "AES", 128),
        findings=[Finding("spf", "pass", 0.5, {"smtp.mailfrom": "a@example.org"}, "why", "spf")],
    )
    told = orjson.loads(written(facts(mail, "rcpt", mail.envelope.recipients[1])))
    assert told == TOLD


@given(st.text(alphabet=st.characters()))
def test_any_text_can_be_told(text):
    assert b"\n" not in written({"a": [text, {text: None}], "b": 1})


def test_a_lone_surrogate_is_no_obstacle():
    assert orjson.loads(written({"a": "x\udcff"})) == {"a": "x?"}


def test_no_opinion():
    decision = decided()
    assert (decision.opinion, decision.findings, decision.edits) == (None, [], [])
    assert decided(verdict=None).opinion is None


@pytest.mark.parametrize(
    ("answer", "action", "reply"),
    [
        ({"verdict": "accept"}, Action.ACCEPT, None),
        ({"verdict": "hold", "reason": "odd\nmail"}, Action.HOLD, None),
        ({"verdict": "discard"}, Action.DISCARD, None),
        ({"verdict": "defer"}, Action.DEFER, "451 4.7.1 Try again later"),
        ({"verdict": "reject"}, Action.REJECT, "550 5.7.1 Refused by policy"),
        ({"verdict": "reject", "reply": {"text": "nö\r\n250"}}, Action.REJECT, "550 5.7.1 n???250"),
        (
            {"verdict": "reject", "reply": {"code": 554, "status": "5.6.0", "text": "no"}},
            Action.REJECT,
            "554 5.6.0 no",
        ),
        ({"verdict": "defer", "reply": {"code": 450}}, Action.DEFER, "450 4.7.1 Try again later"),
    ],
)
def test_verdicts(answer, action, reply):
    opinion = decided(**answer).opinion
    assert opinion.action is action
    assert (opinion.reply and str(opinion.reply)) == reply
    assert opinion.reason.isprintable()


def test_findings():
    found = {"method": "mine", "result": "hit", "score": 2, "reason": "be\ncause", "props": {"a.b": "c"}}
    assert decided(findings=[found]).findings == [Finding("mine", "hit", 2.0, {"a.b": "c"}, "be?cause")]


def test_edits():
    body = base64.b64encode(b"new\r\n").decode()
    wanted = [
        {"edit": "add_header", "name": "X-A", "value": "a"},
        {"edit": "add_header", "name": "X-B", "value": "b", "bottom": True},
        {"edit": "drop_header", "name": "X-C"},
        {"edit": "drop_header", "name": "X-C", "index": 1},
        {"edit": "replace_header", "name": "Subject", "value": "s"},
        {"edit": "replace_body", "base64": body},
        {"edit": "set_sender", "address": ""},
        {"edit": "add_recipient", "address": "c@example.net"},
        {"edit": "drop_recipient", "address": "b@example.net"},
    ]
    assert decided(edits=wanted).edits == [
        AddHeader("X-A", "a"),
        AddHeader("X-B", "b", bottom=True),
        DropHeader("X-C"),
        DropHeader("X-C", 1),
        ReplaceHeader("Subject", "s"),
        ReplaceBody(b"new\r\n"),
        SetSender(make_address("")),
        AddRecipient(Recipient(make_address("c@example.net"))),
        DropRecipient(make_address("b@example.net")),
    ]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "wrongly in the whole"),
        (b"no json", "wrongly in the whole"),
        (b"[]", "wrongly in the whole"),
        (b"null", "wrongly in the whole"),
        (b'{"verdict": "maybe"}', "wrongly in verdict"),
        (b'{"verdikt": "reject"}', "wrongly in verdikt"),
        (b'{"verdict": "reject", "reply": {"code": 250}}', "wrongly in reply.code"),
        (b'{"verdict": "reject", "reply": {"code": 451}}', "needs a 5yz reply"),
        (b'{"verdict": "reject", "reply": {"code": "550"}}', "wrongly in reply.code"),
        (b'{"verdict": "defer", "reply": {"status": "5.7.1"}}', "does not belong to code 451"),
        (b'{"findings": [{"method": "x", "result": "great"}]}', "'great' is not a result"),
        (b'{"findings": [{"method": "X y", "result": "hit"}]}', "wrongly in findings.0.method"),
        (b'{"findings": [{"method": "x", "result": "hit", "score": NaN}]}', "wrongly in"),
        (b'{"edits": [{"edit": "explode"}]}', "wrongly in edits.0"),
        (
            b'{"edits": [{"edit": "add_header", "name": "A b", "value": ""}]}',
            "'A b' is not a header field name",
        ),
        (b'{"edits": [{"edit": "add_header", "name": "A", "value": "a\\r\\nB: b"}]}', "the folds of A"),
        (b'{"edits": [{"edit": "drop_header", "name": "A", "index": -1}]}', "wrongly in edits.0"),
        (b'{"edits": [{"edit": "replace_body", "base64": "%"}]}', "wrongly"),
        (b'{"edits": [{"edit": "replace_body", "base64": "Cg=="}]}', "CRLF"),
        (b'{"edits": [{"edit": "add_recipient", "address": "a b@x"}]}', "is no address"),
        (b'{"edits": [{"edit": "set_sender", "address": "a@x>\\r\\nDATA"}]}', "is no address"),
    ],
)
def test_an_answer_that_is_not_allowed_says_what_is_wrong(answer, words):
    with pytest.raises(ServiceError) as raised:
        read(answer, may_edit=True)
    assert words in str(raised.value)


@given(
    st.binary()
    | st.recursive(
        st.none() | st.text() | st.integers(),
        lambda c: (
            st.dictionaries(st.sampled_from(["verdict", "reply", "findings", "edits", "edit"]), c)
            | st.lists(c)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_nothing_else_is_ever_raised(answer):
    try:
        read(answer, may_edit=True)
    except ServiceError:
        return


def test_edits_belong_to_the_message():
    with pytest.raises(ServiceError, match="for the stage `message` only"):
        decided(may_edit=False, edits=[{"edit": "drop_header", "name": "X"}])
