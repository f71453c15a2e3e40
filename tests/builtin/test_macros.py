"""Office files put together here, looked at by the real oletools in its own process."""

import base64
import sys

import pytest
from tests.builtin.office import doc, docm

from relayproxy.api import ServiceError, Setup
from relayproxy.builtin import _macros, attachments
from relayproxy.builtin._macros import MacroReader, Report
from relayproxy.builtin.attachments import Attachments, AttachmentsSettings
from relayproxy.testing.mail import call, make_mail

EVIL = b'Attribute VB_Name = "ThisDocument"\r\nSub AutoOpen()\r\nShell "calc.exe"\r\nEnd Sub\r\n'
STARTS = b'Attribute VB_Name = "ThisDocument"\r\nSub AutoOpen()\r\nx = 1\r\nEnd Sub\r\n'
CALM = b'Attribute VB_Name = "ThisDocument"\r\nSub Sum()\r\nx = 1\r\nEnd Sub\r\n'


def message(*files):
    part = (
        b"--cut\r\nContent-Type: application/msword\r\nContent-Disposition: attachment; filename=a.doc\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n"
    )
    return (
        b"From: a@example.org\r\nContent-Type: multipart/mixed; boundary=cut\r\n\r\n"
        + b"".join(part + base64.b64encode(one) + b"\r\n" for one in files)
        + b"--cut--\r\n"
    )


def plugin(**settings):
    return Attachments(AttachmentsSettings(**{"look_at_macros": True, "disguised": "note", **settings}))


async def found(*files, **settings):
    mail = make_mail(message(*files))
    await call(plugin(**settings), "message", mail=mail)
    return [(f.props["problem"], f.reason) for f in mail.findings if f.result == "hit"]


@pytest.mark.parametrize("make", [doc, docm])
async def test_what_macros_do(make):
    assert await found(make(EVIL)) == [
        ("macros", "it holds macros"),
        ("macros_autoexec", "its macros start by themselves: AutoOpen"),
        ("macros_suspicious", "its macros do harmful things: Shell"),
    ]
    assert [sort for sort, _ in await found(make(STARTS))] == ["macros", "macros_autoexec"]
    assert [sort for sort, _ in await found(make(CALM))] == ["macros"]


async def test_files_without_macros():
    assert await found(doc()) == []
    assert await found(b"unknown") == []


async def test_without_the_setting_macros_are_not_read():
    assert [sort for sort, _ in await found(doc(EVIL), look_at_macros=False)] == ["macros"]


async def test_actions():
    raw = message(doc(EVIL))
    verdict = await call(plugin(macros_suspicious="block"), "message", mail=make_mail(raw))
    assert str(verdict.reply) == (
        '550 5.7.1 The attachment "a.doc" is not accepted: its macros do harmful things: Shell'
    )
    assert (
        await call(plugin(macros_suspicious="block"), "message", mail=make_mail(message(doc(STARTS)))) is None
    )
    [edit] = await call(plugin(macros_autoexec="strip"), "before_forward", mail=make_mail(raw))
    assert b'The attachment "a.doc" was removed: its macros start by themselves: AutoOpen.' in edit.body


async def test_a_file_that_can_not_be_read():
    broken = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1000)
    assert await found(broken) == [("unreadable", "what its macros do can't be told")]
    name = "_VBA_PROJECT".encode("utf-16-le")
    assert [sort for sort, _ in await found(broken + name)] == ["macros", "macros_suspicious"]


async def test_so_many_files_of_a_message_are_looked_at():
    sorts = [sort for sort, _ in await found(*[doc(CALM)] * 5, macros="allow")]
    assert sorts == ["macros_suspicious"]


async def test_a_file_that_takes_too_much_counts_as_one_that_can_not_be_read():
    large = doc(b"' x\r\n" * 1000 + EVIL)
    assert await MacroReader(memory=20_000_000).report(large) == Report(readable=False)
    slow = doc(b'x = "a" & "b"\r\n' * 150_000)
    assert await MacroReader(seconds=1, memory=1 << 33).report(slow) == Report(readable=False)


async def test_a_reader_that_does_not_answer_is_a_fault(monkeypatch, tmp_path):
    stuck = tmp_path / "stuck.py"
    stuck.write_text("import sys, time\nsys.stdin.buffer.read()\nwhile True: time.sleep(60)\n")
    monkeypatch.setattr(_macros, "_CHILD", stuck)
    with pytest.raises(ServiceError, match=r"took longer than 0.2 s"):
        await MacroReader(patience=0.2).report(b"")
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(ServiceError, match="can't be started"):
        await MacroReader().report(b"")


async def test_without_oletools_it_is_said_what_to_install(monkeypatch, tmp_path):
    missing = tmp_path / "missing.py"
    missing.write_text(f"import sys\nsys.stdin.buffer.read()\nsys.exit({_macros.MISSING})\n")
    monkeypatch.setattr(_macros, "_CHILD", missing)
    with pytest.raises(ServiceError, match=r"pip install 'relayproxy\[macros\]'"):
        await MacroReader().report(b"")
    assert list(plugin().check(Setup(tmp_path))) == []
    monkeypatch.setattr(attachments, "is_installed", lambda: False)
    [mistake] = plugin().check(Setup(tmp_path))
    assert (mistake.at, mistake.hint) == (("look_at_macros",), "pip install 'relayproxy[macros]'")
    assert list(plugin(look_at_macros=False).check(Setup(tmp_path))) == []


async def test_a_file_that_was_looked_at_lately_is_not_looked_at_again(monkeypatch):
    reader = MacroReader()
    first = await reader.report(doc(EVIL))
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert await reader.report(doc(EVIL)) == first
