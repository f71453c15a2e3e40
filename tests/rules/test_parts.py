"""What rules see of a message's parts where readers disagree: whatever any of them may show is there."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.rules.asking import holds

from relayproxy.model.mime import MOST_PARTS, Oddity, read_tree
from relayproxy.rules import facts as facts_module
from relayproxy.rules.fact_table import FACTS
from relayproxy.rules.facts import Facts, World
from relayproxy.testing.mail import make_mail

EXE = "Content-Type: application/octet-stream\nContent-Disposition: attachment; filename=a.exe\n\nx\n"


def raw(text):
    return text.replace("\n", "\r\n").encode()


def mixed(inside, boundary="boundary=a", more=""):
    return raw(f"From: a@example.org\nContent-Type: multipart/mixed; {boundary}\n{more}\n{inside}")


def facts_of(data):
    return Facts(make_mail(data), None, World(FACTS), 0.0)


HIDDEN = {
    "in an open multipart": mixed(f"--a\n\nhello\n--a\n{EXE}"),
    "behind the second boundary": mixed(f"--b\n{EXE}--b--\n", "boundary=a; boundary=b"),
    "behind the first boundary": mixed(f"--a\n{EXE}--a--\n", "boundary=a; boundary=b"),
    "behind a boundary in pieces": mixed(f"--xy\n{EXE}--xy--\n", "boundary=a; boundary*0=x; boundary*1=y"),
    "behind the second type": raw(
        f"Content-Type: text/plain\nContent-Type: multipart/mixed; boundary=a\n\n--a\n{EXE}--a--\n"
    ),
    "in a message within": mixed(f"--a\nContent-Type: message/rfc822\n\n{EXE}--a--\n"),
    "in a global message within": mixed(f"--a\nContent-Type: message/global\n\n{EXE}--a--\n"),
    "in a digest": raw(f"Content-Type: multipart/digest; boundary=a\n\n--a\n\nSubject: x\n{EXE}\n--a--\n"),
    "in a part whose header has no end": mixed(f"--a\n{EXE.partition(chr(10) * 2)[0]}\n--a--\n"),
    "in an inner multipart of the same boundary": mixed(
        f"--a\nContent-Type: multipart/mixed; boundary=a\n\n--a\n{EXE}--a--\n--a--\n"
    ),
    "under a boundary with blanks behind it": mixed(f"--a \t\n{EXE}--a--\n"),
    "before an end that came too early": mixed(
        f"--a\nContent-Type: multipart/x; boundary=b\n\n--a\n{EXE}--b--\n--a--\n"
    ),
}


@pytest.mark.parametrize("data", HIDDEN.values(), ids=HIDDEN)
def test_a_file_behind_a_broken_structure_is_seen(data):
    assert holds({"attachment.extension": "exe"}, raw=data)
    assert holds({"attachment.name": {"ends_with": ".exe"}, "attachments.count": {"above": 0}}, raw=data)


NAMES = [
    "filename=a.exe",
    'filename="a.exe. "',
    'filename="a.exe',
    'filename="=?utf-8?b?YS5leGU=?="',
    "filename*=utf-8''a%2Eexe",
    "filename*1*=%65xe; filename*0*=utf-8''a.",
    "filename=harmless.txt; filename*=utf-8''a.exe",
    "filename=a.exe; filename*=utf-8''harmless.txt",
    "filename=harmless.txt; filename=a.exe",
    "filename=harmless.txt\nContent-Type: application/pdf; name=a.exe",
    'filename="a.\uff45\uff58\uff45"',
    'filename="a.exe:harmless.txt"',
    'filename="a.exe%00.txt"',
    "FileName = a.exe",
    "filename=\n a.exe",
]


@pytest.mark.parametrize("parameters", NAMES)
def test_an_extension_in_every_disguise(parameters):
    data = raw(f"Content-Disposition: attachment; {parameters}\n\nx\n")
    assert holds({"attachment.extension": "exe"}, raw=data)


def test_what_may_hide_something_can_be_asked_about():
    assert holds({"mime.oddity": "unterminated"}, raw=HIDDEN["in an open multipart"])
    assert holds({"mime.oddity": ["boundary-conflict"]}, raw=HIDDEN["behind the second boundary"])
    no_boundary = raw(f"Content-Type: multipart/mixed\n\n--a\n{EXE}--a--\n")
    assert holds({"mime.unseen": True, "mime.oddity": "no-boundary"}, raw=no_boundary)
    assert holds({"attachments.count": 1, "part.type": "multipart/mixed"}, raw=no_boundary)
    encoded = mixed("--a\nContent-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\neA==\n--a--\n")
    assert holds({"mime.unseen": True, "mime.oddity": "encoded-message"}, raw=encoded)
    many = mixed("--a\n\nx\n" * (MOST_PARTS + 5))
    assert holds({"mime.unseen": True, "mime.oddity": "too-many-parts"}, raw=many)
    assert not holds({"mime.unseen": True}, raw=mixed(f"--a\n{EXE}--a--\n"))


def test_plain_text_is_not_parsed(monkeypatch):
    def parsed(_message):
        raise AssertionError("no rule needs it")

    monkeypatch.setattr(facts_module, "read_tree", parsed)
    for head in ("", "Content-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: 8bit\n"):
        facts = facts_of(raw(f"From: a@example.org\n{head}\nhello\n"))
        assert (facts["attachment.name"], facts["attachments.count"]) == ((), 0)
        assert (facts["mime.oddity"], facts["mime.unseen"]) == ((), False)
        assert facts["part.type"] == ("text/html" if head else "text/plain",)


PIECES = st.sampled_from(
    [
        "Content-Type",
        "Content-Disposition",
        "Content-Transfer-Encoding",
        "\n",
        ": ",
        "text/plain",
        "text/html",
        "multipart/mixed",
        "; ",
        "boundary=a",
        "name=b.exe",
        "attachment",
        "base64",
        "odd",
        " ",
        "\t",
        "X: y",
    ]
)


@given(st.lists(PIECES, max_size=14).map("".join), st.lists(PIECES, max_size=6).map("".join))
def test_the_short_way_of_plain_text_says_what_the_reader_says(head, body):
    data = raw(re.sub("\n+", "\n", f"{head}\n") + f"\n{body}--a\n")
    mail = make_mail(data)
    tree = read_tree(mail.message)
    facts = facts_of(data)
    assert facts["mime.oddity"] == tuple(sorted(tree.oddities))
    assert facts["mime.unseen"] == tree.unseen
    assert facts["part.type"] == tuple(part.type for part in tree.root.leaves())
    named = [name.lower() for part in tree.root.leaves() for name in part.described.names]
    assert set(named) <= set(facts["attachment.name"])


def test_every_oddity_can_be_written_in_a_rule():
    assert set(FACTS["mime.oddity"].words) == set(Oddity)
