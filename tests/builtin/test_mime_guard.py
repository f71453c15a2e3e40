from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from relayproxy.api import Mail, Message
from relayproxy.builtin._anomalies import DANGEROUS, IN_WORDS, Anomaly, find
from relayproxy.builtin.mime_guard import MimeGuard, MimeGuardSettings
from relayproxy.model.mime import Oddity
from relayproxy.testing.mail import call, make_client, make_mail
from relayproxy.testing.session import SessionDriver

HEAD = b"From: a@example.org\r\nTo: b@example.net\r\nSubject: x\r\nDate: Mon, 21 Sep 2026 14:00:00 +0000\r\n"
GOOD = (
    HEAD + b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n boundary=cut\r\n\r\n"
    b"--cut\r\nContent-Type: text/plain\r\n\r\nHello\r\n"
    b"--cut\r\nContent-Transfer-Encoding: base64\r\n"
    b"Content-Disposition: attachment; filename=a.pdf; filename*=utf-8''%C3%A4.pdf\r\n\r\nYWJj\r\nZA==\r\n"
    b"--cut--\r\n"
)
PLAIN = HEAD + b"\r\nHello\r\n"


def plugin(**settings):
    return MimeGuard(MimeGuardSettings(**settings))


def anomalies(raw, **changes):
    mail = Mail("test.1", make_client(), make_mail(b"").envelope, Message.from_bytes(raw))
    return {anomaly for anomaly, _ in find(mail, changes.get("fields", 1000), changes.get("octets", 262_144))}


def part(content, head=b""):
    return GOOD.replace(
        b"--cut\r\nContent-Type: text/plain\r\n\r\nHello", b"--cut\r\n" + head + b"\r\n" + content
    )


CASES = [
    (PLAIN.replace(b"Subject: x", b"Subject: x\r\nSubject: y"), Anomaly.REPEATED_FIELD),
    (PLAIN.replace(b"Subject: x", b"Reply-To: a@b.example\r\nreply-to: c@d.example"), Anomaly.REPEATED_FIELD),
    (GOOD.replace(b"MIME-V", b"Content-Type: text/html\r\nMIME-V"), Anomaly.REPEATED_FIELD),
    (part(b"x", b"Content-Type: a/b\r\nContent-Type: c/d\r\n"), Anomaly.REPEATED_FIELD),
    (PLAIN.replace(b"Subject:", b"Subject :"), Anomaly.BLANK_BEFORE_COLON),
    (PLAIN.replace(b"Subject:", b"Subject\t:"), Anomaly.BLANK_BEFORE_COLON),
    (PLAIN.replace(b"Subject: x", b"Subject: x\r\nnot a field"), Anomaly.NO_FIELD),
    (b" folded\r\n" + PLAIN, Anomaly.NO_FIELD),
    (PLAIN.replace(b"Subject: x", b"Subject: x\0y"), Anomaly.CONTROL_CHARACTER),
    (PLAIN.replace(b"Subject: x", b"Subject: x\ry"), Anomaly.CONTROL_CHARACTER),
    (PLAIN.replace(b"Subject: x", b"Subject: x\ny"), Anomaly.CONTROL_CHARACTER),
    (PLAIN.replace(b"Subject: x", b"Subject: x\x1by"), Anomaly.CONTROL_CHARACTER),
    (PLAIN.replace(b"To: ", b"To: =?utf-8?Q?a=0D=0ABcc:?= "), Anomaly.ENCODED_CONTROL),
    (PLAIN.replace(b"To: ", b"To: =?utf-8?B?YQBi?= "), Anomaly.ENCODED_CONTROL),
    (PLAIN.replace(b"From: ", b"From: c@d.example\r\nFrom: "), Anomaly.AMBIGUOUS_AUTHOR),
    (PLAIN.replace(b"From: ", b"From: =?utf-8?Q?=3Cc=40d=2Eexample=3E?= <x> "), Anomaly.AMBIGUOUS_AUTHOR),
    (PLAIN.replace(b"a@example.org", b"a@example.org, b@example.org"), Anomaly.ODD_AUTHOR),
    (PLAIN.replace(b"From: a@example.org\r\n", b""), Anomaly.ODD_AUTHOR),
    (PLAIN.replace(b"Subject: x", b"Subject: x\r\n \t\r\n y"), Anomaly.BLANK_FOLD),
    (HEAD, Anomaly.NO_SEPARATOR),
    (PLAIN.replace(b"Subject: x", b"Subject: \xe4"), Anomaly.EIGHT_BIT_HEADER),
    (PLAIN.replace(b"Subject: x", b"Subject: " + b"x" * 990), Anomaly.LONG_LINE),
    (GOOD.replace(b"boundary=cut", b"x=y"), Anomaly.NO_BOUNDARY),
    (GOOD.replace(b"boundary=cut", b"boundary=" + b"c" * 71), Anomaly.BAD_BOUNDARY),
    (GOOD.replace(b"boundary=cut", b"boundary=cut; boundary=cat"), Anomaly.BOUNDARY_CONFLICT),
    (GOOD.replace(b"boundary=cut", b"boundary=cut; boundary*=utf-8''cat"), Anomaly.BOUNDARY_CONFLICT),
    (part(b"--cut\r\n\r\nx", b"Content-Type: multipart/mixed; boundary=cut\r\n"), Anomaly.SAME_BOUNDARY),
    (
        part(b"--cut--\r\n\r\nx", b'Content-Type: multipart/mixed; boundary="cut--"\r\n'),
        Anomaly.PREFIX_BOUNDARY,
    ),
    (GOOD.replace(b"--cut", b"--cat"), Anomaly.NO_PARTS),
    (GOOD.replace(b"--cut--", b""), Anomaly.UNTERMINATED),
    (GOOD.replace(b"text/plain\r\n\r\nHello\r\n", b"text/plain\r\n"), Anomaly.HEADER_UNENDED),
    (part(b"x", b"Content-Type: text/plain\r\nno field\r\n"), Anomaly.PART_NO_FIELD),
    (PLAIN.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: rot13\r\n\r\n"), Anomaly.UNKNOWN_ENCODING),
    (GOOD.replace(b"MIME-V", b"Content-Transfer-Encoding: base64\r\nMIME-V"), Anomaly.ENCODED_MULTIPART),
    (
        part(b"YQ==", b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n"),
        Anomaly.ENCODED_MESSAGE,
    ),
    (GOOD.replace(b"YWJj", b"YW!Jj"), Anomaly.BAD_BASE64),
    (GOOD.replace(b"YWJj", b"YQ==YQ=="), Anomaly.BAD_BASE64),
    (GOOD.replace(b"YWJj", b"YWJjaaa"), Anomaly.BAD_BASE64),
    (GOOD.replace(b"filename=a.pdf", b"filename=a.exe"), Anomaly.NAME_CONFLICT),
    (
        HEAD
        + b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(30)
        ),
        Anomaly.TOO_DEEP,
    ),
    (part(b"x\r\n--cut\r\n\r\n" * 1001), Anomaly.TOO_MANY_PARTS),
    (part(b"x", b"X: y\r\n" * 20_000), Anomaly.TOO_MUCH_HEADER),
    (part(b"--\r\n" * 50_001), Anomaly.TOO_MANY_LINES),
    (b"X: y\r\n" * 1001 + PLAIN, Anomaly.HEADER_BOMB),
    (b"X: " + b"y" * 262_144 + b"\r\n" + PLAIN, Anomaly.HEADER_BOMB),
]


def test_a_good_message_has_none():
    assert anomalies(GOOD) == set()
    assert anomalies(PLAIN) == set()


@pytest.mark.parametrize(("raw", "anomaly"), CASES)
def test_an_anomaly(raw, anomaly):
    assert anomaly in anomalies(raw)


def test_every_anomaly_has_a_case_and_words():
    assert {anomaly for _, anomaly in CASES} == set(Anomaly) == set(IN_WORDS)
    assert {oddity.value for oddity in Oddity} <= {anomaly.value for anomaly in Anomaly}


@pytest.mark.parametrize("anomaly", Anomaly)
async def test_what_is_dangerous_is_refused_and_the_rest_noted(anomaly):
    raw = next(raw for raw, wanted in CASES if wanted is anomaly)
    mail = Mail("test.1", make_client(), make_mail(b"").envelope, Message.from_bytes(raw))
    only = {other: "allow" for other in Anomaly if other is not anomaly}
    verdict = await call(plugin(actions=only), "message", mail=mail)
    assert {f.props["anomaly"] for f in mail.findings} == {anomaly.value}
    if anomaly in DANGEROUS:
        assert str(verdict.reply) == f"550 5.7.1 The message is malformed: {IN_WORDS[anomaly]}"
    else:
        assert verdict is None
        assert mail.score == 1.0


async def test_a_good_message_passes():
    mail = make_mail(GOOD)
    assert await call(plugin(), "message", mail=mail) is None
    assert [(f.method, f.result, f.score) for f in mail.findings] == [("mime", "pass", 0.0)]


async def test_actions():
    raw = PLAIN.replace(b"Subject:", b"Subject :")
    assert await call(plugin(actions={"blank-before-colon": "note"}), "message", mail=make_mail(raw)) is None
    held = await call(plugin(actions={"blank-before-colon": "hold"}), "message", mail=make_mail(raw))
    assert held.action.name == "HOLD"
    mail = make_mail(raw)
    assert await call(plugin(actions={"blank-before-colon": "allow"}), "message", mail=mail) is None
    assert [f.result for f in mail.findings] == ["pass"]


async def test_refusing_is_stronger_than_holding():
    raw = PLAIN.replace(b"Subject: x", b"Subject : x\r\nno field")
    verdict = await call(plugin(actions={"no-field": "hold"}), "message", mail=make_mail(raw))
    assert verdict.action.name == "REJECT"


async def test_the_limits_of_the_header():
    raw = b"X: y\r\n" * 20 + PLAIN
    assert (await call(plugin(max_fields=10), "message", mail=make_mail(raw))).reply.code == 550
    assert await call(plugin(max_fields=24), "message", mail=make_mail(raw)) is None
    raw = b"X: " + b"y" * 990 + b"\r\n" + PLAIN
    assert (await call(plugin(max_header=1024), "message", mail=make_mail(raw))).reply.code == 550


@pytest.mark.parametrize("anomaly", Anomaly)
def test_the_page_names_it_with_its_default(anomaly):
    page = (Path(__file__).parents[2] / "docs/plugins/mime_guard.md").read_text()
    default = "refuse" if anomaly in DANGEROUS else "note"
    assert f"| `{anomaly}` | {default} | {IN_WORDS[anomaly]} |" in page


def test_an_unknown_anomaly_in_the_settings():
    with pytest.raises(ValidationError, match="repeated-field"):
        MimeGuardSettings(actions={"repeated": "refuse"})


async def test_over_smtp_a_stranger_is_refused_and_our_own_mail_is_not_looked_at():
    raw = PLAIN.replace(b"Subject:", b"Subject :")
    stranger = await SessionDriver(plugin(), domains=("example.net",)).deliver(
        raw, recipients=("b@example.net",)
    )
    assert str(stranger.reply).startswith("550 5.7.1 The message is malformed: a header field has a blank")
    ours = await SessionDriver(plugin(), domains=("example.net",), networks=("192.0.2.0/24",)).deliver(
        raw, recipients=("b@far.example",)
    )
    assert ours.reply.ok


async def test_smtputf8_mail_has_such_headers():
    mail = make_mail(PLAIN.replace(b"Subject: x", b"Subject: \xc3\xa4"))
    assert Anomaly.EIGHT_BIT_HEADER in {anomaly for anomaly, _ in find(mail, 1000, 262_144)}
    mail.envelope = type(mail.envelope)(smtputf8=True)
    assert list(find(mail, 1000, 262_144)) == []


async def test_a_large_message():
    mail = make_mail(GOOD.replace(b"Hello", b"Hello\r\n" * 200_000))
    assert await call(plugin(), "message", mail=mail) is None
    assert [f.result for f in mail.findings] == ["pass"]


PIECES = [
    b"\r\n",
    b": ",
    b"Subject",
    b"From",
    b"Content-Type: multipart/mixed; boundary=a",
    b"--a",
    b"\xff",
    b" ",
]
PIECES += [b"=?utf-8?b?AA==?=", b"\0", b"Content-Transfer-Encoding: base64", b"a@b.example", b'"', b"<", b"("]


@given(st.lists(st.sampled_from(PIECES)).map(b"".join))
def test_any_octets_have_anomalies_or_none(raw):
    assert anomalies(raw) <= set(Anomaly)
