import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.mailauth.spf_fields import received_spf, upgraded
from relayproxy.model.edits import AddHeader, header_line
from relayproxy.model.message import Message


def test_the_field_as_rfc_7208_has_it():
    value = received_spf(
        "pass",
        "mx.example.com: domain of a(b)",
        client_ip="2001:db8::1",
        envelope_from="a@example.org",
        helo="mail.example.org",
        problem="",
        identity="mailfrom",
    )
    assert value == (
        "pass (mx.example.com: domain of a\\(b\\))\r\n"
        '\tclient-ip="2001:db8::1";\r\n\tenvelope-from="a@example.org";\r\n'
        "\thelo=mail.example.org;\r\n\tidentity=mailfrom"
    )


@given(st.text(), st.text(), st.text())
def test_foreign_text_stays_inside_the_field(comment, sender, helo):
    edit = AddHeader("Received-SPF", received_spf("fail", comment, envelope_from=sender, helo=helo))
    line = header_line(edit.name, edit.value)
    assert line.isascii()
    assert len(Message(line + b"\r\n").fields) == 1


def message(*lines):
    return Message.from_bytes("".join(f"{line}\r\n" for line in (*lines, "", "")).encode())


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (
            "ARC-Authentication-Results: i=1; mx.google.com; spf=fail smtp.mailfrom=a@Victim.example",
            "mx.google.com said fail",
        ),
        (
            "ARC-Authentication-Results: i=1; f.example; dkim=pass; spf=softfail smtp.mailfrom=victim.example",
            "f.example said softfail",
        ),
        ("Authentication-Results: f.example; spf=fail smtp.mailfrom=victim.example", "f.example said fail"),
        (
            'Received-SPF: SoftFail (x) client-ip=192.0.2.1; envelope-from="a@victim.example"; helo=x',
            "Received-SPF said softfail",
        ),
        ("Received-SPF: fail envelope-from=victim.example", "Received-SPF said fail"),
        ("ARC-Authentication-Results: i=1; f.example; spf=pass smtp.mailfrom=victim.example", ""),
        ("ARC-Authentication-Results: i=1; f.example; spf=fail smtp.mailfrom=other.example", ""),
        ("ARC-Authentication-Results: i=1; f.example; dmarc=fail smtp.mailfrom=victim.example", ""),
        ("ARC-Authentication-Results: broken (", ""),
        ("Authentication-Results: i=1; spf=fail", ""),
        ("Received-SPF: pass envelope-from=a@victim.example", ""),
        ("Received-SPF: fail envelope-from=a@other.example", ""),
        ("Received-SPF: fail", ""),
        ("Subject: spf=fail smtp.mailfrom=victim.example", ""),
    ],
)
def test_a_forwarder_may_have_turned_a_fail_into_a_pass(field, said):
    assert upgraded(message("Received: x", field), "victim.example") == said


@pytest.mark.parametrize("piece", ["envelope-from", "envelope-from=", "a@", "fail ", '"', " "])
def test_long_fields_are_read_in_one_pass(piece):
    assert upgraded(message(f"Received-SPF: fail {piece * 100_000}"), "victim.example") == ""
