import base64
import os
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from relayproxy.api import App, Setup
from relayproxy.builtin._address_map import WatchedFile, read_address
from relayproxy.builtin._replacing import PatternFault, Replacement
from relayproxy.builtin.address_rewrite import AddressRewrite, AddressRewriteSettings
from relayproxy.model.edits import apply_to_message
from relayproxy.testing import FakeClock, FakeResolver
from relayproxy.testing.mail import call, make_address, make_mail
from relayproxy.testing.session import SessionDriver

RECIPIENTS = {
    "addresses": {"Old@example.net": "new@example.net", "list@example.net": "box@example.net"},
    "patterns": [{"match": r"(\w+)\.(\w+)@example\.net", "to": r"\2_\1@staff.example.net"}],
    "domains": {"old.example.net": "example.net", "b\xfccher.example.net": "example.net"},
}
MESSAGE = b"From: a@example.org\r\n\r\nHello\r\n"


def plugin(folder=Path(), clock=None, **settings):
    made = AddressRewrite(AddressRewriteSettings(**settings))
    made.startup(App("mx.example.net", FakeResolver(), clock or FakeClock(), folder))
    return made


async def recipient(made, address):
    rcpt = make_mail(recipients=[address]).envelope.recipients[0]
    edits = await call(made, "rewrite_envelope", mail=make_mail(), rcpt=rcpt)
    return str(edits[0].new) if edits else address


async def sender(made, address):
    edits = await call(made, "rewrite_envelope", mail=make_mail(sender=address), rcpt=None)
    return str(edits[0].sender) if edits else address


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("old@example.net", "new@example.net"),
        ("OLD@Example.NET", "new@example.net"),
        ("jane.doe@example.net", "doe_jane@staff.example.net"),
        ("Jane.Doe@EXAMPLE.net", "Doe_Jane@staff.example.net"),
        ("jane.doe@example.net.org", "jane.doe@example.net.org"),
        ("Any.One@old.example.net", "Any.One@example.net"),
        ("x@xn--bcher-kva.example.net", "x@example.net"),
        ("x@sub.old.example.net", "x@sub.old.example.net"),
        ("other@example.net", "other@example.net"),
        ("postmaster", "postmaster"),
    ],
)
async def test_recipients(old, new):
    assert await recipient(plugin(recipients=RECIPIENTS), old) == new
    assert await sender(plugin(recipients=RECIPIENTS), old) == old


async def test_senders():
    made = plugin(senders={"domains": {"host.example.org": "example.org"}})
    assert await sender(made, "root@host.example.org") == "root@example.org"
    assert await sender(made, "") == ""
    assert await recipient(made, "root@host.example.org") == "root@host.example.org"


@pytest.mark.parametrize(
    ("tags", "old", "new"),
    [
        ("keep", "old+tag@example.net", "new+tag@example.net"),
        ("keep", "old+a+b@example.net", "new+a+b@example.net"),
        ("keep", "other+tag@example.net", "other+tag@example.net"),
        ("keep", "+tag@example.net", "+tag@example.net"),
        ("keep", '"old+tag"@example.net', '"old+tag"@example.net'),
        ("keep", "list+x@example.net", "exact@example.net"),
        ("drop", "old+tag@example.net", "new@example.net"),
        ("drop", "other+tag@example.net", "other@example.net"),
        ("drop", "list+x@example.net", "exact@example.net"),
    ],
)
async def test_tags(tags, old, new):
    addresses = {**RECIPIENTS["addresses"], "list+x@example.net": "exact@example.net"}
    made = plugin(recipients={"addresses": addresses, "separator": "+", "tags": tags})
    assert await recipient(made, old) == new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("nobody@example.net", "box@example.net"),
        ("known@example.net", "known@example.net"),
        ("KNOWN+tag@example.net", "KNOWN+tag@example.net"),
        ("too@example.net", "too@example.net"),
        ("old@example.net", "new@example.net"),
        ("nobody@example.org", "nobody@example.org"),
    ],
)
async def test_a_box_for_all_that_is_left(tmp_path, old, new):
    (tmp_path / "users").write_text("# who is there\n\nToo@example.net\n")
    made = plugin(
        tmp_path,
        recipients={"addresses": {"old@example.net": "new@example.net"}, "separator": "+"},
        catch_all={"Example.NET": "box@example.net"},
        known=["known@example.net"],
        known_file="users",
    )
    assert await recipient(made, old) == new


async def test_a_file_is_read_again_when_it_changes(tmp_path, caplog):
    clock = FakeClock()
    path = tmp_path / "map"
    path.write_text("a@example.net b@example.net\n")
    made = plugin(tmp_path, clock, recipients={"file": "map"})
    assert await recipient(made, "A@example.net") == "b@example.net"
    path.write_text("a@example.net other@example.net\n")
    assert await recipient(made, "a@example.net") == "b@example.net"
    clock.advance(2)
    assert await recipient(made, "a@example.net") == "other@example.net"
    path.write_text("nonsense\n")
    for _ in range(3):
        clock.advance(2)
        assert await recipient(made, "a@example.net") == "other@example.net"
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}:1: wanted an address and what it becomes; what was read before still holds"
    ]
    path.unlink()
    clock.advance(2)
    assert await recipient(made, "a@example.net") == "other@example.net"
    path.write_text("a@example.net b@example.net\n")
    clock.advance(2)
    assert await recipient(made, "a@example.net") == "b@example.net"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a@example.net", "map:1: wanted an address and what it becomes"),
        ("\n\na@example.net nobody\n", "map:3: 'nobody' is no address"),
        ("a@example.net b@example.net\nA@example.net c@example.net\n", "map:2: A@example.net is there twice"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, text, said):
    (tmp_path / "map").write_text(text)
    made = AddressRewrite(AddressRewriteSettings(recipients={"file": "map"}, known_file="missing"))
    first, second = made.check(Setup(tmp_path))
    assert said in first.message
    assert first.at == ("recipients", "file")
    assert "missing" in second.message
    with pytest.raises(ValueError, match="map:"):
        plugin(tmp_path, recipients={"file": "map"})


def test_a_file_that_is_too_large(tmp_path):
    with (tmp_path / "map").open("wb") as file:
        os.truncate(file.fileno(), 16_777_217)
    with pytest.raises(ValueError, match="larger than"):
        WatchedFile(tmp_path / "map", list).read()


async def test_an_address_that_would_be_none_stays_and_is_noted(caplog):
    made = plugin(recipients={"patterns": [{"match": "(.*)@example.net", "to": r"\1\1@example.net"}]})
    address = f"{'a' * 40}@example.net"
    mail = make_mail(recipients=[address])
    assert await call(made, "rewrite_envelope", mail=mail, rcpt=mail.envelope.recipients[0]) == []
    assert mail.finding("address_rewrite").result == "none"
    assert "stays" in caplog.text


async def test_over_smtp_the_next_hop_is_asked_about_the_new_addresses():
    made = AddressRewrite(
        AddressRewriteSettings(
            recipients=RECIPIENTS, senders={"addresses": {"a@example.org": "b@example.org"}}
        )
    )
    delivery = await SessionDriver(made, domains=("example.net",)).deliver(
        MESSAGE, sender="a@example.org", recipients=("old@example.net",)
    )
    assert delivery.reply.ok
    assert str(delivery.sent.envelope.sender) == "b@example.org"
    assert [str(one.address) for one in delivery.sent.recipients] == ["new@example.net"]
    assert bytes(delivery.sent.data).endswith(MESSAGE)
    assert delivery.mail.finding("address_rewrite").props["original"] == "old@example.net"


HEADER = (
    b'From: "root@host.example.org" <Root@host.example.org>\r\nX-From: root@host.example.org\r\n'
    b"Reply-To: a@example.com,\r\n b@host.example.org, not@host.example.org.uk\r\n\r\nroot@host.example.org\r\n"
)


async def header(raw, **settings):
    made = plugin(**{"senders": {"domains": {"host.example.org": "example.org"}}, "header": True, **settings})
    mail = make_mail(raw)
    edits = await call(made, "before_forward", mail=mail)
    return bytes(apply_to_message(mail.message, edits)), mail


async def test_senders_in_the_header():
    assert (await header(HEADER))[0] == (
        b'From: "root@example.org" <Root@example.org>\r\nX-From: root@host.example.org\r\n'
        b"Reply-To: a@example.com, b@example.org, not@host.example.org.uk\r\n\r\nroot@host.example.org\r\n"
    )
    assert (await header(HEADER, header=False))[0] == HEADER
    assert (await header(MESSAGE))[0] == MESSAGE


async def test_of_several_fields_the_right_one_is_changed():
    raw = b"From: a@example.org\r\nFrom: b@host.example.org\r\n\r\n"
    assert (await header(raw))[0] == b"From: a@example.org\r\nFrom: b@example.org\r\n\r\n"


async def test_octets_that_are_no_text_stay():
    raw = b"From: \xe4 <b@host.example.org>, x..y@host.example.org, @host.example.org\r\n\r\n"
    assert (await header(raw))[0] == (
        b"From: \xe4 <b@example.org>, x..y@example.org, @host.example.org\r\n\r\n"
    )


async def test_a_field_that_can_not_be_written_stays(caplog):
    raw = b"From: \x01 <b@host.example.org>\r\nSender: b@host.example.org\r\n\r\n"
    assert (await header(raw))[0] == b"From: \x01 <b@host.example.org>\r\nSender: b@example.org\r\n\r\n"
    assert "From in the header stays" in caplog.text


async def test_a_signature_of_the_header(caplog):
    digest = base64.b64encode(sha256(b"root@host.example.org\r\n").digest())
    raw = b"DKIM-Signature: v=1; d=x.example; h=from; bh=" + digest + b"; b=YQ==\r\n" + HEADER
    kept, mail = await header(raw)
    assert kept == raw
    assert mail.finding("address_rewrite").reason == "the header stays, as its signature would break"
    changed, _ = await header(raw, signed="break")
    assert b"<Root@example.org>" in changed
    assert "breaks its signature: x.example" in caplog.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"recipients": {"addresses": {"nobody": "a@example.net"}}}, "'nobody' is no address"),
        ({"recipients": {"addresses": {"a@example.net": "a b@example.net"}}}, "is no address"),
        ({"recipients": {"addresses": {"a@example.net": f"{'a' * 65}@example.net"}}}, "longer than"),
        ({"recipients": {"domains": {"a@b": "c"}}}, "is no domain"),
        ({"recipients": {"patterns": [{"match": "(a", "to": "b"}]}}, r"is no pattern: missing \)"),
        ({"recipients": {"patterns": [{"match": "(a)", "to": r"\2@example.net"}]}}, "is no group"),
        ({"recipients": {"patterns": [{"match": r"(a)\1", "to": "b"}]}}, "is no pattern"),
        ({"recipients": {"patterns": [{"match": "a" * 1001, "to": "b"}]}}, "longer than 1000"),
        ({"recipients": {"separator": "++"}}, "at most 1 character"),
    ],
)
def test_settings_that_can_not_be_used(settings, said):
    with pytest.raises(ValidationError, match=said):
        AddressRewriteSettings(**settings)


def test_a_pattern_that_would_hang_others_answers():
    assert Replacement("(a+)+b", "x").applied("a" * 100_000) is None
    assert Replacement("(a)|(b)", r"[\1\2]").applied("B") == "[B]"
    with pytest.raises(PatternFault):
        Replacement("a", "b\\")


@given(st.text(max_size=40))
def test_what_is_read_as_an_address_is_one(text):
    try:
        address = read_address(text)
    except ValueError:
        return
    assert str(address) == text.strip()
    assert str(make_address(str(address))) == str(address)
    assert not any(c.isspace() for c in address.domain)
