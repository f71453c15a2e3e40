import pytest
from pydantic import ValidationError
from tests.builtin.scanning import RAW, an_app, asked, scripted, started
from tests.servers.spamd import Spamd

from relayproxy.api import Action, Finding, Message, ServiceError, TlsInfo
from relayproxy.builtin.spamassassin import Spamassassin, SpamassassinSettings
from relayproxy.testing import MemoryState
from relayproxy.testing.mail import call, make_mail

FORGED = b"X-Spam-Flag: NO\r\nX-Spam-Status: No, score=-100\r\n"


def saying(answer, seen=None):
    """Return a talk that reads a request to its end and says `answer`."""

    async def talk(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        (length,) = [int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-length:")]
        request = head + await reader.readexactly(length)
        if seen is not None:
            seen.append(request)
        writer.write(answer)

    return talk


def spamd_says(score, rules="A,B", required="5.0", word="True"):
    body = f"{rules}\r\n"
    return (
        f"SPAMD/1.1 0 EX_OK\r\nContent-length: {len(body)}\r\nSpam: {word} ; {score} / {required}\r\n\r\n{body}"
    ).encode()


async def answered(answer, raw=RAW, seen=None, facts=(), **options):
    async with scripted(saying(answer, seen)) as address:
        return await asked(started(Spamassassin, address=address, **options), raw, **dict(facts))


async def test_what_is_sent_has_the_way_of_the_message_on_top():
    seen = []
    facts = {"identity": "me", "tls": TlsInfo("TLSv1.3", "AES", 128)}
    await answered(spamd_says("0.0"), seen=seen, facts=facts, user="joe")
    head, _, content = seen[0].partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"SYMBOLS SPAMC/1.5",
        b"Content-length: %d" % len(content),
        b"User: joe",
    ]
    assert content.endswith(RAW)
    fields = Message.from_bytes(content).fields
    assert fields[0].raw == b"Return-Path: <a@example.org>\r\n"
    assert fields[1].value == (
        "from client.example.org ([192.0.2.1])\tby mx.example.com with ESMTPSA id test.1;"
        "\tFri, 15 Jan 2027 08:00:00 -0000"
    )


async def test_a_client_without_an_address_leaves_no_trace():
    seen = []
    await answered(spamd_says("0.0"), seen=seen, facts={"ip": ""})
    assert seen[0].partition(b"\r\n\r\n")[2] == b"Return-Path: <a@example.org>\r\n" + RAW


async def test_a_large_body_goes_out_in_pieces():
    seen = []
    async with scripted(saying(spamd_says("0.0"), seen)) as address:
        plugin = started(Spamassassin, address=address, max_size=10_000_000)
        mail = make_mail(RAW)
        mail.message = Message(RAW[:-7], memoryview(b"a" * 900_000 + b"\r\n"))
        await call(plugin, "message", mail=mail)
    assert seen[0].endswith(bytes(mail.message))


async def test_what_is_found_is_noted_and_shown():
    verdict, finding, message = await answered(spamd_says("-0.5", word="False"), FORGED + RAW)
    assert verdict is None
    assert finding == Finding(
        "spamassassin", "miss", -0.5, {"score": "-0.5", "required": "5.0", "rules": "A,B"}, by="spamassassin"
    )
    assert message.header("X-Spam-Status") == "No, score=-0.5 required=5.0\ttests=A,B"
    assert message.all("X-Spam-Flag") == ()


async def test_spam_is_marked():
    verdict, finding, message = await answered(spamd_says("7.1"), FORGED + RAW, weight=0.5)
    assert verdict is None
    assert (finding.result, finding.score) == ("hit", 3.55)
    assert [field.value for field in message.all("X-Spam-Flag")] == ["YES"]
    assert message.header("X-Spam-Status").startswith("Yes, score=7.1")


@pytest.mark.parametrize(
    ("on_spam", "action"),
    [("reject", Action.REJECT), ("hold", Action.HOLD), ("discard", Action.DISCARD), ("note", None)],
)
async def test_what_follows_from_spam(on_spam, action):
    verdict, _, message = await answered(spamd_says("5.0"), on_spam=on_spam)
    assert (verdict and verdict.action) == action
    assert message.all("X-Spam-Flag") == ()
    verdict, _, _ = await answered(spamd_says("4.9", word="False"), on_spam=on_spam)
    assert verdict is None


async def test_a_score_of_its_own_refuses():
    verdict, _, _ = await answered(spamd_says("12.0"), reject_score=12)
    assert str(verdict.reply) == "550 5.7.1 Message refused as spam"
    verdict, _, _ = await answered(spamd_says("11.9"), reject_score=12)
    assert verdict is None


async def test_the_fields_can_be_left_out():
    _, _, message = await answered(spamd_says("7.1"), FORGED + RAW, spam_header="", status_header="")
    assert bytes(message) == FORGED + RAW


async def test_many_rules_are_folded():
    rules = ",".join(f"A_RULE_WITH_A_LONG_NAME_{number}" for number in range(40))
    _, finding, message = await answered(spamd_says("7.1", rules))
    assert finding.props["rules"] == rules
    raw = message.all("X-Spam-Status")[0].raw
    assert max(map(len, raw.split(b"\r\n"))) < 78
    assert b"".join(raw.partition(b"tests=")[2].split()).decode() == rules


async def test_no_rule_at_all():
    _, _, message = await answered(spamd_says("0.0", rules=""))
    assert message.header("X-Spam-Status").endswith("tests=none")


async def test_what_is_too_large_is_let_through_and_said_so():
    verdict, finding, message = await answered(b"", FORGED + RAW, max_size=10)
    assert verdict is None
    assert finding.result == "policy"
    assert bytes(message) == RAW


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"SPAMD/1.0 76 Bad header line: no\r\n",
        b"SPAMD/1.1 0 EX_OK\r\n\r\n",
        b"SPAMD/1.1 0 EX_OK\r\nSpam: maybe\r\n\r\n",
        b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; nan / 5\r\n\r\n",
        b"SPAMD/1.1 0 EX_OK\r\n" + b"x: y\r\n" * 100,
        b"x" * 200_000,
    ],
)
async def test_what_is_no_answer_is_a_fault(answer):
    with pytest.raises(ServiceError, match=r"^spamassassin: "):
        await answered(answer)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"address": "a:1", "user": "a\r\nb"},
        {"address": "a:1", "spam_header": "X Y"},
        {"address": "a:1", "reject_score": 0},
    ],
)
def test_settings_that_are_refused(options):
    with pytest.raises(ValidationError):
        SpamassassinSettings.model_validate(options)


@pytest.mark.servers
async def test_a_real_spamd():
    spamd = Spamd()
    try:
        await spamd.start()
        plugin = started(Spamassassin, address=spamd.address, reject_score=10, timeout=20)
        verdicts = {}
        for word in (b"hello", b"low-word", b"spam-word", b"reject-word"):
            verdict, finding, message = await asked(plugin, RAW.replace(b"hello", word))
            shown = message.header("X-Spam-Flag")
            verdicts[word] = (finding.props["rules"], shown, verdict and verdict.reply.code)
        assert verdicts == {
            b"hello": ("TEST_FROM,TEST_RELAY", None, None),
            b"low-word": ("TEST_FROM,TEST_LOW,TEST_RELAY", None, None),
            b"spam-word": ("TEST_FROM,TEST_RELAY,TEST_SPAM", "YES", None),
            b"reject-word": ("TEST_BAD,TEST_FROM,TEST_RELAY", "YES", 550),
        }
    finally:
        await spamd.stop()


async def test_the_same_question_is_asked_once_where_that_is_wanted():
    seen = []
    async with scripted(saying(spamd_says("7.1"), seen)) as address:
        app = an_app(state=MemoryState(lambda: 0.0))
        plugin = started(Spamassassin, app=app, address=address, remember="5m")
        first = await asked(plugin)
        assert (await asked(plugin))[1] == first[1]
        assert len(seen) == 1
        await asked(plugin, sender="c@example.org")
        assert len(seen) == 2
