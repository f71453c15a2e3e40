import orjson
import pytest
from pydantic import ValidationError
from tests.builtin.scanning import RAW, an_app, asked, http_saying, released, scripted, started

from relayproxy.api import Action, Message, ServiceError, TlsInfo
from relayproxy.builtin.rspamd import DEEDS, Rspamd, RspamdSettings
from relayproxy.testing import MemoryState
from relayproxy.testing.mail import call, make_mail


async def answered(answer, raw=RAW, seen=None, facts=(), **options):
    """Ask a stand-in that answers `answer`."""
    body = (
        answer if isinstance(answer, bytes) else orjson.dumps({"action": "no action", "score": 0, **answer})
    )
    async with scripted(http_saying(body, seen=seen)) as address:
        plugin = started(Rspamd, url=f"http://{address}", **options)
        try:
            return await asked(plugin, raw, **dict(facts))
        finally:
            await plugin.shutdown()


async def test_what_is_asked_names_client_and_envelope_and_carries_the_octets():
    seen = []
    facts = {
        "sender": "ä@example.org",
        "recipients": ["b@example.net", "c@example.net"],
        "identity": "me",
        "tls": TlsInfo("TLSv1.3", "AES", 128),
    }
    await answered({}, seen=seen, facts=facts)
    ((head, content),) = seen
    assert content == RAW
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /checkv2 HTTP/1.1"
    for line in (
        "IP: 192.0.2.1",
        "Helo: client.example.org",
        "User: me",
        "From: ä@example.org",
        "Rcpt: b@example.net",
        "Rcpt: c@example.net",
        "Queue-Id: test.1",
        "TLS-Version: TLSv1.3",
    ):
        assert line in lines


async def test_the_password_is_read_where_it_lies(tmp_path):
    file = tmp_path / "password"
    file.touch(mode=0o600)
    file.write_text("open-sesame\n")
    seen = []
    await answered({}, seen=seen, password={"file": str(file)})
    assert b"Password: open-sesame\r\n" in seen[0][0]


async def test_a_large_body_goes_out_in_pieces():
    seen = []
    body = b"a" * 900_000 + b"\r\n"
    async with scripted(http_saying(b'{"action": "no action", "score": 0}', seen=seen)) as address:
        plugin = started(Rspamd, url=f"http://{address}")
        mail = make_mail(RAW)
        mail.message = Message(RAW[:-7], memoryview(body))
        await call(plugin, "message", mail=mail)
        await plugin.shutdown()
    assert seen[0][1] == bytes(mail.message)


@pytest.mark.parametrize("action", DEEDS)
async def test_every_action_has_a_meaning(action):
    verdict, finding, message = await answered({"action": action, "score": 3.5})
    wanted = {"mark": Action.ACCEPT}.get(DEEDS[action]) or Action[
        DEEDS[action].replace("mark", "accept").upper()
    ]
    assert verdict.action is wanted
    assert verdict.reason == f"rspamd: {action}"
    assert finding.score == 3.5
    assert finding.props["action"] == action
    assert finding.result == ("miss" if DEEDS[action] == "accept" else "hit")
    assert [field.value for field in message.all("X-Spam")] == (["Yes"] if DEEDS[action] == "mark" else [])


async def test_the_settings_change_what_an_action_means():
    verdict, _, _ = await answered({"action": "reject"}, actions={"reject": "hold"})
    assert verdict.action is Action.HOLD
    verdict, _, _ = await answered({"action": "greylist"}, actions={"greylist": "defer"})
    assert str(verdict.reply) == "451 4.7.1 Try again later"


async def test_an_action_nobody_knows_is_a_fault():
    with pytest.raises(ServiceError, match="'explode' has no meaning"):
        await answered({"action": "explode"})
    verdict, _, _ = await answered({"action": "explode"}, actions={"explode": "reject"})
    assert verdict.action is Action.REJECT


async def test_the_text_for_the_client_is_rspamds_made_fit():
    said = {"action": "reject", "messages": {"smtp_message": "no\r\n250 schön"}}
    verdict, _, _ = await answered(said)
    assert str(verdict.reply) == "550 5.7.1 no??250 sch?n"
    verdict, _, _ = await answered({"action": "reject", "messages": []})
    assert str(verdict.reply) == "550 5.7.1 Message refused as spam"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no json",
        b"[]",
        b'{"action": 1, "score": 1}',
        b'{"action": "reject"}',
        b'{"score": 1}',
        b"x" * 5_000_000,
    ],
)
async def test_an_answer_that_makes_no_sense_is_a_fault(answer):
    with pytest.raises(ServiceError, match="rspamd: "):
        await answered(answer)


async def test_odd_parts_of_an_answer_are_passed_over():
    odd = {
        "symbols": {"A\n": 1, "B": {"score": "x"}},
        "milter": {"add_headers": [], "remove_headers": {"From": "x"}},
        "required_score": None,
    }
    _, finding, message = await answered(odd)
    assert finding.props == {"action": "no action", "score": "0.00", "symbol.A?": "", "symbol.B": ""}
    assert bytes(message) == RAW


async def test_an_error_page_and_a_redirect_are_faults():
    for status in ("403 Forbidden", "500 Oops", "302 Found"):
        async with scripted(http_saying(b"{}", status)) as address:
            plugin = started(Rspamd, url=f"http://{address}")
            with pytest.raises(ServiceError, match=f"rspamd: answered {status[:3]}"):
                await asked(plugin)
            await plugin.shutdown()


async def test_a_field_that_can_not_be_is_a_fault_of_the_forwarding():
    with pytest.raises(ServiceError, match="header field that can't be"):
        await answered({"milter": {"add_headers": {"A b": "x"}}})


async def test_headers_can_be_left_alone():
    wants = {"milter": {"add_headers": {"X-A": "x"}}, "action": "add header", "subject": "no"}
    _, _, message = await answered(wants, headers=False, spam_header="")
    assert bytes(message) == RAW


async def test_a_signature_goes_on_top():
    _, _, message = await answered({"dkim-signature": ["v=1; a", "v=1; b"]})
    assert [field.value for field in message.all("DKIM-Signature")] == ["v=1; b", "v=1; a"]


async def test_what_is_too_large_is_let_through_and_said_so():
    verdict, finding, message = await answered({"action": "reject"}, max_size=10)
    assert verdict is None
    assert finding.result == "policy"
    assert bytes(message) == RAW


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"url": "127.0.0.1:11333"},
        {"url": "ftp://x"},
        {"url": "http://me:secret@x"},
        {"url": "http://x", "actions": {"reject": "explode"}},
        {"url": "http://x", "spam_header": "X Spam"},
    ],
)
def test_settings_that_are_refused(options):
    with pytest.raises(ValidationError):
        RspamdSettings.model_validate(options)


async def test_what_a_human_released_leaves_as_rspamd_wants_it():
    body = orjson.dumps({"action": "quarantine", "score": 9, "milter": {"add_headers": {"X-Why": "9"}}})
    async with scripted(http_saying(body)) as address:
        plugin = started(Rspamd, url=f"http://{address}", actions={"quarantine": "hold"})
        verdict, _, _ = await asked(plugin)
        assert verdict.action is Action.HOLD
        message = await released(plugin)
        await plugin.shutdown()
    assert message.header("X-Why") == "9"


async def test_a_released_message_waits_for_rspamd():
    plugin = started(Rspamd, url="http://127.0.0.1:9")
    with pytest.raises(ServiceError):
        await released(plugin)
    await plugin.shutdown()


async def test_the_same_question_is_asked_once_where_that_is_wanted():
    seen = []
    body = orjson.dumps({"action": "add header", "score": 9, "milter": {"add_headers": {"X-Why": "9"}}})
    async with scripted(http_saying(body, seen=seen)) as address:
        plugin = started(Rspamd, app=with_state(), url=f"http://{address}", remember="5m")
        first = await asked(plugin)
        again = await asked(plugin)
        assert [bytes(one[2]) for one in (first, again)] == [bytes(first[2])] * 2
        assert first[1] == again[1]
        assert len(seen) == 1
        for facts in ({"sender": "c@example.org"}, {"recipients": ["c@example.net"]}, {"ip": "192.0.2.2"}):
            await asked(plugin, **facts)
        assert len(seen) == 4
        await plugin.shutdown()


async def test_what_is_put_off_is_asked_again():
    seen = []
    body = orjson.dumps({"action": "soft reject", "score": 4})
    async with scripted(http_saying(body, seen=seen)) as address:
        plugin = started(Rspamd, app=with_state(), url=f"http://{address}", remember="5m")
        await asked(plugin)
        await asked(plugin)
        await plugin.shutdown()
    assert len(seen) == 2


def with_state():
    return an_app(state=MemoryState(lambda: 0.0))
