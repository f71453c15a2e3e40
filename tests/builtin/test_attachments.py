import base64
import gzip
import io
import struct
import zipfile
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from relayproxy.builtin._archive_list import list_zip
from relayproxy.builtin._content_kinds import kind_of
from relayproxy.builtin.attachments import Attachments, AttachmentsSettings
from relayproxy.model.file_names import extensions_of
from relayproxy.model.mime import MOST_PARTS
from relayproxy.testing.mail import call, make_mail
from relayproxy.testing.session import SessionDriver

PE = b"MZ\x90\0\x03\0\0\0" + b"\0" * 100
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 100
ALL_NOTED = dict.fromkeys(
    ("dangerous", "disguised", "macros", "encrypted", "nested", "bomb", "unreadable"), "note"
)


def plugin(**settings):
    return Attachments(AttachmentsSettings(**settings))


def part(content=b"data", disposition='attachment; filename="a.bin"', kind="application/octet-stream"):
    lines = [b"Content-Type: " + kind.encode(), b"Content-Transfer-Encoding: base64"]
    if disposition:
        lines.append(b"Content-Disposition: " + disposition.encode())
    return b"\r\n".join((*lines, b"", base64.encodebytes(content).replace(b"\n", b"\r\n").rstrip()))


def message(*parts, text=b"Hello"):
    whole = (b"Content-Type: text/plain\r\n\r\n" + text, *parts)
    return (
        b"From: a@example.org\r\nSubject: x\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: multipart/mixed; boundary=cut\r\n\r\npreamble\r\n"
        + b"".join(b"--cut\r\n" + one + b"\r\n" for one in whole)
        + b"--cut--\r\nepilogue\r\n"
    )


def zipped(*entries, method=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return out.getvalue()


def encrypted():
    """Return a zip file with the flag set in both lists."""
    data = bytearray(zipped(("a.txt", b"secret")))
    data[6] |= 1
    data[data.find(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


async def problems(raw, **settings):
    """Return what is noted, as pairs of the sort and the reason."""
    mail = make_mail(raw)
    await call(plugin(**{**ALL_NOTED, **settings}), "message", mail=mail)
    return [(f.props["problem"], f.reason) for f in mail.findings if f.result == "hit"]


async def sorts(raw, **settings):
    return {sort for sort, _ in await problems(raw, **settings)}


async def test_harmless_files_pass():
    raw = message(
        part(b"%PDF-1.7\n", 'attachment; filename="a.pdf"'),
        part(
            zipped(("[Content_Types].xml", b"x"), ("word/document.xml", b"y")), "attachment; filename=a.docx"
        ),
        part(zipped(("holiday.jpg", b"x" * 1000)), "attachment; filename=a.zip"),
        part(b"\x89PNG\r\n\x1a\n", "inline; filename=a.png", "image/png"),
        part(gzip.compress(b"log"), "attachment; filename=access.log.gz"),
    )
    mail = make_mail(raw)
    assert await call(plugin(), "message", mail=mail) is None
    assert [(f.method, f.result) for f in mail.findings] == [("attachments", "pass")]
    assert await call(plugin(**dict.fromkeys(ALL_NOTED, "strip")), "before_forward", mail=mail) == []


@pytest.mark.parametrize(
    "disposition",
    [
        "attachment; filename=a.exe",
        'attachment; filename="a.EXE"',
        'attachment; filename="a.exe."',
        'attachment; filename="a.exe . "',
        'attachment; filename="invoice.pdf                    .exe"',
        "attachment; filename=a.exe b.txt",
        'attachment; filename="a.exe',
        r'attachment; filename="a\.exe"',
        "attachment; filename*=utf-8''a%2Eexe",
        "attachment; filename*0=a.; filename*1=ex; filename*2=e",
        "attachment; filename*0*=iso-8859-1'en'a%2E; filename*1=exe",
        "attachment; filename=a.txt; filename*=utf-8''a.exe",
        "attachment; filename=a.txt; filename=a.exe",
        'attachment; filename="=?utf-8?B?YS5leGU=?="',
        'attachment; filename="=?utf-8?Q?a=2E?= =?utf-8?Q?exe?="',
        'attachment; filename="a.exe::$DATA"',
        "attachment; filename*=utf-8''a.exe%00.txt",
        "attachment; filename*=utf-8''a%EF%BC%8E%EF%BD%85%EF%BD%98%EF%BD%85",
        "attachment; filename*=utf-8''a.e%E2%80%8Bxe",
        "attachment; filename=a%2Eexe",
        r'attachment; filename="..\\..\\a.exe"',
        "attachment; name=a.exe",
    ],
)
async def test_a_dangerous_name_in_every_spelling(disposition):
    raw = message(part(disposition=disposition))
    assert ("dangerous", "its name ends in .exe") in await problems(raw)
    verdict = await call(plugin(), "message", mail=make_mail(raw))
    assert str(verdict.reply).startswith('550 5.7.1 The attachment "')
    assert verdict.reply.text.endswith('" is not accepted: its name ends in .exe')


async def test_the_name_in_the_content_type():
    assert await sorts(message(part(disposition="", kind="application/x; name=a.exe"))) == {"dangerous"}


async def test_a_name_that_is_turned_round():
    raw = message(part(b"x", "attachment; filename*=utf-8''annex%E2%80%AEfdp.zip"))
    assert "disguised" in await sorts(raw)
    raw = message(part(b"x", "attachment; filename*=utf-8''annex%E2%80%AEfdp.exe"))
    assert await sorts(raw) == {"dangerous", "disguised"}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (PE, "executable"),
        (b"\x7fELF\x02", "executable"),
        (b"\xcf\xfa\xed\xfe\0", "executable"),
        (b"L\0\0\0\x01\x14\x02\0", "shortcut"),
        (b"MSCF\0", "cabinet"),
        (b"ITSF\0", "help"),
        (b"\0" * 0x8001 + b"CD001", "disk-image"),
    ],
)
async def test_dangerous_content_whatever_its_name(content, kind):
    found = await problems(message(part(content, "attachment; filename=report.dat")))
    assert found == [("dangerous", f"its content is of the kind {kind}")]
    found = await problems(message(part(content, "attachment; filename=report.pdf")))
    assert [sort for sort, _ in found] == ["dangerous", "disguised"]


async def test_text_that_begins_like_a_program_is_text():
    assert kind_of(b"MZ Motors\r\nsend their regards") == ""
    assert await problems(b"From: a@example.org\r\n\r\nMZ Motors\r\n") == []


@pytest.mark.parametrize(
    ("content", "name", "disguised"),
    [
        (zipped(("a.txt", b"")), "a.pdf", True),
        (b"<html>", "a.txt", False),  # a source text
        (b"%PDF-", "a.txt", True),
        (b"%PDF-", "a.docx", True),
        (OLE, "a.docx", False),  # an encrypted office file
        (b"{\\rtf1", "a.doc", False),
        (b"unknown", "a.pdf", False),
    ],
)
async def test_content_that_is_not_what_the_name_says(content, name, disguised):
    found = await sorts(message(part(content, f"attachment; filename={name}")))
    assert ("disguised" in found) == disguised


async def test_what_is_in_a_zip_file():
    assert await problems(message(part(zipped(("docs/a.EXE ", b"x"))))) == [
        ("dangerous", "it holds a file whose name ends in .exe")
    ]
    assert await sorts(message(part(encrypted()))) == {"encrypted"}
    assert await sorts(message(part(zipped(("b.zip", zipped(("c.txt", b""))))))) == {"nested"}
    assert await sorts(message(part(zipped(("word/vbaProject.bin", b"x"))))) == {"macros"}
    stored = zipped(("b.dat", zipped(("c.exe", b""))), method=zipfile.ZIP_STORED)
    assert await sorts(message(part(stored))) == {"dangerous"}


async def test_both_lists_of_a_zip_file_count():
    data = zipped(("a.exe", b"x"))
    only_local = data.replace(b"a.exe", b"a.txt").replace(b"a.txt", b"a.exe", 1)
    only_central = data.replace(b"a.exe", b"a.txt", 1)
    for one in (only_local, only_central):
        assert one.count(b"a.exe") == 1
        assert await sorts(message(part(one))) == {"dangerous"}


async def test_bombs_are_refused_without_being_unpacked():
    for content in (zipped(("a.txt", b"0" * 20_000_000)), gzip.compress(b"0" * 20_000_000)):
        verdict = await call(plugin(), "message", mail=make_mail(message(part(content))))
        assert str(verdict.reply).startswith(
            '552 5.7.0 The attachment "a.bin" is not accepted: it unpacks to '
        )
    assert await sorts(message(part(zipped(("a.txt", b"0" * 1_000_000))))) == set()


async def test_a_zip_file_that_says_it_has_more_than_it_has():
    data = bytearray(zipped(("a.txt", b"x")))
    place = data.find(b"PK\x01\x02")
    data[place + 24 : place + 28] = struct.pack("<L", 0xFFFFFFFF)
    assert await sorts(message(part(bytes(data)))) == {"bomb"}


async def test_packed_data_that_looks_like_an_entry_is_none():
    chance = b"PK\x01\x02" + b"\xff" * 60
    data = zipped(("a.jpg", chance), method=zipfile.ZIP_STORED)
    assert await sorts(message(part(data))) == set()


async def test_too_many_entries():
    data = zipped(*((f"{n}.txt", b"") for n in range(11)))
    assert await problems(message(part(data)), max_entries=10) == [
        ("unreadable", "it holds more than is looked at")
    ]
    assert await problems(message(part(data)), max_entries=11) == []


async def test_the_entries_of_all_archives_of_a_message_are_limited():
    one = part(zipped(*((f"{n}.txt", b"") for n in range(3))))
    assert await problems(message(*[one] * 10), max_entries=3) == []
    found = await problems(message(*[one] * 12), max_entries=3)
    assert [sort for sort, _ in found] == ["unreadable"] * 2


async def test_what_can_not_be_looked_into():
    assert await sorts(message(part(b"Rar!\x1a\x07\x01\0"))) == {"unreadable"}
    assert await sorts(message(part(b"no archive", "attachment; filename=a.zip"))) == {"unreadable"}
    large = message(part(zipped(("a.exe", bytes(range(256)) * 300), method=zipfile.ZIP_STORED)))
    assert await sorts(large) == {"dangerous"}
    assert await problems(large, max_size=65_536) == [("unreadable", "it is too large to be looked at")]


async def test_the_octets_of_a_message_that_are_looked_into_are_limited():
    one = part(zipped(("a.exe", bytes(range(256)) * 150), method=zipfile.ZIP_STORED))
    found = await problems(message(*[one] * 4), max_size=65_536)
    assert [sort for sort, _ in found] == ["dangerous"] * 2 + ["unreadable"] * 2


async def test_macros():
    assert await sorts(message(part(b"x", "attachment; filename=a.docm"))) == {"macros"}
    project = "_VBA_PROJECT".encode("utf-16-le")
    assert await sorts(message(part(OLE + project, "attachment; filename=a.doc"))) == {"macros"}
    assert await sorts(message(part(OLE, "attachment; filename=a.doc"))) == set()


async def test_a_file_in_the_text():
    text = b"Look:\r\n\r\nbegin 644 a.exe\r\n#0V%T\r\n`\r\nend"
    assert await sorts(message(text=text)) == {"dangerous"}
    assert await sorts(b"From: a@example.org\r\n\r\n" + text) == {"dangerous"}
    assert await sorts(b"From: a@example.org\r\n\r\n" + text[9:]) == {"dangerous"}
    coded = b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.b64encode(text)
    assert await sorts(coded) == {"dangerous"}


async def test_a_structure_that_can_not_be_read_whole():
    many = message(*[b"\r\n"] * MOST_PARTS)
    assert await sorts(many) == {"unreadable"}
    assert (await call(plugin(unreadable="strip"), "message", mail=make_mail(many))).reply.code == 550
    assert await call(plugin(), "message", mail=make_mail(many)) is None


async def test_the_findings_are_limited_and_their_text_is_printable():
    mail = make_mail(message(*[part(disposition="attachment; filename*=utf-8''%0D%0A%E4.exe")] * 50))
    verdict = await call(plugin(), "message", mail=mail)
    assert len(mail.findings) == 20
    assert mail.findings[0].props["name"].isprintable()
    assert verdict.reply.code == 550


async def test_scores_and_actions():
    raw = message(part(disposition="attachment; filename=a.exe"))
    mail = make_mail(raw)
    assert await call(plugin(dangerous="note", score=2.5), "message", mail=mail) is None
    assert mail.score == 2.5
    assert (await call(plugin(dangerous="hold"), "message", mail=make_mail(raw))).action.name == "HOLD"
    mail = make_mail(raw)
    assert await call(plugin(dangerous="allow"), "message", mail=mail) is None
    assert [f.result for f in mail.findings] == ["pass"]
    two = message(part(encrypted()), part(disposition="attachment; filename=a.exe"))
    verdict = await call(plugin(encrypted="hold"), "message", mail=make_mail(two))
    assert verdict.action.name == "REJECT"


async def test_what_is_taken_out_leaves_a_note_and_all_else_stays():
    bad = part(PE, 'attachment; filename="a\xe4.exe"').replace(
        b"Content-Type", b"X-Mine: kept\r\nContent-Type"
    )
    good = part(b"%PDF-", "attachment; filename=b.pdf")
    raw = message(bad, good, bad)
    delivery = await SessionDriver(plugin(dangerous="strip"), domains=("example.net",)).deliver(
        raw, recipients=("b@example.net",)
    )
    assert delivery.reply.ok
    note = (
        b"X-Mine: kept\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"
        b'The attachment "a?.exe" was removed: its content is of the kind executable.'
    )
    sent = bytes(delivery.sent.data)
    assert sent.endswith(raw.replace(bad, note))
    assert note in sent


async def test_what_is_within_something_that_is_taken_out_goes_with_it():
    bad = part(PE, "attachment; filename=b.exe")
    outer = b"Content-Type: multipart/mixed; boundary=in; name=a.exe\r\n\r\n--in\r\n" + bad + b"\r\n--in--"
    raw = message(outer)
    [edit] = await call(plugin(dangerous="strip"), "before_forward", mail=make_mail(raw))
    note = (
        b"Content-Type: text/plain; charset=us-ascii\r\n\r\n"
        b'The attachment "a.exe" was removed: its name ends in .exe.'
    )
    assert raw.endswith(edit.body.replace(note, outer))
    assert edit.body.count(b"was removed") == 1


async def test_it_is_said_whose_signature_breaks(caplog):
    raw = message(part(PE, "attachment; filename=a.exe"))
    digest = base64.b64encode(sha256(raw.partition(b"\r\n\r\n")[2]).digest())
    raw = b"DKIM-Signature: v=1; d=far.example; h=from; bh=" + digest + b"; b=YQ==\r\n" + raw
    mail = make_mail(raw)
    assert await call(plugin(dangerous="strip"), "before_forward", mail=mail)
    assert mail.finding("attachments").props["broken"] == "far.example"
    assert "attachments taken out: 1, which breaks the signature of far.example" in caplog.text


async def test_a_message_that_is_nothing_but_the_file():
    raw = b"From: a@example.org\r\n" + part(PE, "attachment; filename=a.exe") + b"\r\n"
    delivery = await SessionDriver(plugin(dangerous="strip"), domains=("example.net",)).deliver(
        raw, recipients=("b@example.net",)
    )
    assert bytes(delivery.sent.data).endswith(
        b"From: a@example.org\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"
        b'The attachment "a.exe" was removed: its content is of the kind executable.\r\n'
    )


async def test_a_file_in_a_message_in_a_message():
    inner = b"Subject: inner\r\n" + part(PE, "attachment; filename=a.exe")
    raw = message(b"Content-Type: message/rfc822\r\n\r\n" + inner)
    assert await sorts(raw) == {"dangerous"}
    edits = await call(plugin(dangerous="strip"), "before_forward", mail=make_mail(raw))
    assert b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\nContent-Type: text/plain" in edits[-1].body


async def test_a_file_in_a_digest_whose_parts_are_messages_without_saying_so():
    inner = b"\r\nSubject: inner\r\n" + part(PE, "attachment; filename=a.exe")
    raw = message(inner).replace(b"multipart/mixed", b"multipart/digest")
    assert await sorts(raw) == {"dangerous"}


async def test_a_file_in_a_header_that_nothing_ends():
    raw = message(part(b"%PDF-", "attachment; filename=b.pdf"))
    raw = raw.replace(b"\r\n\r\npreamble", b"\r\n--cut\r\n" + part(PE, "attachment; filename=a.exe"), 1)
    assert "dangerous" in await sorts(raw)


@pytest.mark.parametrize("kind", ["message/partial; id=a; number=1; total=2", "message/external-body"])
async def test_content_that_is_not_here(kind):
    assert await sorts(message(f"Content-Type: {kind}\r\n\r\nx".encode())) == {"unreadable"}


async def test_what_a_message_within_is_called_does_not_count():
    head = b"Content-Type: message/rfc822; name=example.com\r\n\r\n"
    assert await sorts(message(head + b"Subject: inner\r\n\r\nHello")) == set()


async def test_a_large_message():
    raw = message(part(b"%PDF-" + b"x" * 1_500_000, "attachment; filename=a.exe"))
    assert await sorts(raw) == {"dangerous"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"more_extensions": ["tar.gz"]}, "only what follows the last dot counts"),
        ({"kinds": ["programs"]}, "there is no kind 'programs'"),
        ({"dangerous": "drop"}, "block"),
    ],
)
def test_settings_that_mean_nothing(settings, said):
    with pytest.raises(ValidationError, match=said):
        AttachmentsSettings(**settings)


async def test_further_extensions():
    raw = message(part(b"x", "attachment; filename=a.one"))
    assert await sorts(raw) == set()
    assert await sorts(raw, more_extensions=[".ONE"]) == {"dangerous"}
    assert await sorts(message(part(disposition="attachment; filename=a.exe")), extensions=["zip"]) == set()


def test_extensions():
    assert extensions_of("") == frozenset()
    assert extensions_of("...") == frozenset()
    assert extensions_of("README") == frozenset()
    assert extensions_of(".exe") == {"exe"}
    assert extensions_of("a.b/c.txt") == {"txt"}


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_octets_can_be_listed(before, after):
    for signature in (b"PK\x03\x04", b"PK\x01\x02"):
        listing = list_zip(before + signature + after, 3)
        assert len(listing.names) <= 6


@given(st.text(max_size=50))
def test_any_name_has_extensions(name):
    assert all("." not in extension for extension in extensions_of(name))
