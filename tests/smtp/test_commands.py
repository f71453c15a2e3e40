"""MAIL and RCPT as they may be written, and as they may not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.model.address import NULL_SENDER, Address
from relayproxy.smtp.commands import (
    CommandError,
    Offered,
    mail_command,
    parse_mail,
    parse_rcpt,
    rcpt_command,
)

ALL = Offered(size=1000, requiretls=True)
EXTENSIONS = frozenset({"SIZE", "8BITMIME", "SMTPUTF8", "DSN", "AUTH", "REQUIRETLS"})


@pytest.mark.parametrize(
    ("arg", "sender"),
    [
        ("FROM:<>", NULL_SENDER),
        ("from:<a@b.example>", Address("a", "b.example")),
        ("FROM: <a@b.example>", Address("a", "b.example")),
        ('FROM:<"a b>c"@b.example>', Address('"a b>c"', "b.example")),
        ('FROM:<"a\\"@x"@b.example>', Address('"a\\"@x"', "b.example")),
        ("FROM:<@one.example,@two.example:a@b.example>", Address("a", "b.example")),
        ("FROM:<a@[192.0.2.1]>", Address("a", "[192.0.2.1]")),
        ("FROM:<a@[IPv6:2001:db8::1]>", Address("a", "[IPv6:2001:db8::1]")),
        ("FROM:<a+b=c@b.example.>", Address("a+b=c", "b.example")),
        ("FROM:<grüße@bücher.example> SMTPUTF8", Address("grüße", "bücher.example")),
    ],
)
def test_senders(arg, sender):
    assert parse_mail(arg, ALL).sender == sender


def test_a_u_label_has_an_a_label():
    assert Address("a", "Bücher.example").ascii_domain == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("arg", "code"),
    [
        ("", 501),
        ("FROM:", 501),
        ("FROM:a@b.example", 501),
        ("FROM:<a@b.example", 501),
        ("FROM:<a@b.example>x", 501),
        ("FROM:<a>", 501),
        ("FROM:<a b@c.example>", 501),
        ("FROM:<a@b..example>", 501),
        ("FROM:<a@b.example> SIZE=1x", 501),
        ("FROM:<a@b.example> SIZE=" + "9" * 5000, 501),
        ("FROM:<a@b.example> SIZE=1 SIZE=2", 501),
        ("FROM:<a@b.example> BODY=BINARYMIME", 501),
        ("FROM:<a@b.example> RET=SOME", 501),
        ("FROM:<a@b.example> ENVID=a+zz", 501),
        ("FROM:<a@b.example> FROB=1", 555),
        ("FROM:<grüße@b.example>", 553),
    ],
)
def test_what_is_no_mail_command(arg, code):
    with pytest.raises(CommandError) as caught:
        parse_mail(arg, ALL)
    assert caught.value.reply.code == code


@pytest.mark.parametrize(
    ("arg", "code"),
    [
        ("TO:<>", 501),
        ("TO:<a@b.example> NOTIFY=NEVER,DELAY", 501),
        ("TO:<a@b.example> NOTIFY=SOMETIMES", 501),
        ("TO:<a@b.example> ORCPT=nobody", 501),
        ("TO:<a@b.example> SIZE=1", 555),
        ("TO:<ü@b.example>", 553),
    ],
)
def test_what_is_no_rcpt_command(arg, code):
    with pytest.raises(CommandError) as caught:
        parse_rcpt(arg, ALL, smtputf8=False)
    assert caught.value.reply.code == code


def test_postmaster_needs_no_domain():
    assert parse_rcpt("TO:<Postmaster>", ALL, smtputf8=False).address == Address("Postmaster", "")


def test_parameters_that_are_not_offered_are_refused():
    for word in ("SIZE=1", "BODY=8BITMIME", "SMTPUTF8", "RET=FULL", "AUTH=<>", "REQUIRETLS"):
        with pytest.raises(CommandError) as caught:
            parse_mail(f"FROM:<a@b.example> {word}", Offered(0, False, False, False, False, False))
        assert caught.value.reply.code == 555


LOCALS = st.from_regex(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,12}(\.[a-z0-9]{1,5})?", fullmatch=True)
DOMAINS = st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){1,3}", fullmatch=True)


@given(
    LOCALS,
    DOMAINS,
    st.integers(0, 10**9),
    st.sampled_from(["", "7BIT", "8BITMIME"]),
    st.sampled_from(["", "FULL"]),
)
def test_what_is_written_is_read_again(local, domain, size, body, ret):
    envelope = parse_mail(
        f"FROM:<{local}@{domain}> SIZE={size}" + f" BODY={body}" * bool(body) + f" RET={ret}" * bool(ret), ALL
    )
    line = mail_command(envelope, size, EXTENSIONS)
    assert parse_mail(line.removeprefix("MAIL "), ALL) == envelope
    recipient = parse_rcpt(f"TO:<{local}@{domain}> NOTIFY=DELAY ORCPT=rfc822;{domain}", ALL, smtputf8=False)
    line = rcpt_command(recipient, EXTENSIONS)
    assert parse_rcpt(line.removeprefix("RCPT "), ALL, smtputf8=False) == recipient
    assert mail_command(envelope, size, frozenset()) == f"MAIL FROM:<{local}@{domain}>"


@given(st.text(max_size=60))
def test_any_argument_is_an_envelope_or_a_refusal(arg):
    refusals = []
    for parse in (lambda: parse_mail(arg, ALL), lambda: parse_rcpt(arg, ALL, smtputf8=True)):
        try:
            parse()
        except CommandError as error:
            refusals.append(error.reply)
    assert all(reply.permanent for reply in refusals)
