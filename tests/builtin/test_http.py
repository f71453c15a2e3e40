import base64

import orjson
import pytest
from pydantic import ValidationError
from tests.builtin.scanning import RAW, asked, http_saying, scripted, started

from relayproxy.api import Action, ServiceError
from relayproxy.builtin.http import Http, HttpSettings
from relayproxy.testing.mail import call, make_mail


async def answered(answer, seen=None, raw=RAW, status="200 OK", **script):
    body = answer if isinstance(answer, bytes) else orjson.dumps(answer)
    async with scripted(http_saying(body, status, seen)) as address:
        plugin = started(Http, scripts=[{"name": "web", "url": f"http://{address}/mail", **script}])
        try:
            return await asked(plugin, raw)
        finally:
            await plugin.shutdown()


async def test_a_service_is_told_and_decides():
    seen = []
    edit = {"edit": "add_header", "name": "X-Web", "value": "seen"}
    verdict, finding, message = await answered({"verdict": "accept", "edits": [edit]}, seen)
    head, body = seen[0]
    assert head.startswith(b"POST /mail HTTP/1.1\r\n")
    assert b"Content-Type: application/json\r\n" in head
    assert b"Authorization" not in head
    told = orjson.loads(body)
    assert told["envelope"]["recipients"] == ["b@example.net"]
    assert "message" not in told
    assert verdict.action is Action.ACCEPT
    assert finding.props == {"script": "web", "verdict": "accept"}
    assert message.header("X-Web") == "seen"


async def test_the_message_is_in_it_if_wanted():
    seen = []
    await answered({}, seen, send="message")
    await answered({}, seen, send="message", max_size=10)
    large = RAW + b"x" * 200_000 + b"\r\n"
    await answered({}, seen, large, send="message")
    assert base64.b64decode(orjson.loads(seen[0][1])["message"]) == RAW
    assert "message" not in orjson.loads(seen[1][1])
    assert base64.b64decode(orjson.loads(seen[2][1])["message"]) == large


async def test_a_large_answer():
    body = base64.b64encode(b"new\r\n" * 50_000).decode()
    _, _, message = await answered({"edits": [{"edit": "replace_body", "base64": body}]})
    assert message.body == b"new\r\n" * 50_000


async def test_the_token(tmp_path):
    file = tmp_path / "token"
    file.touch(mode=0o600)
    file.write_text("open-sesame\n")
    seen = []
    await answered({}, seen, token={"file": str(file)})
    assert b"Authorization: Bearer open-sesame\r\n" in seen[0][0]


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (b"", "200 OK", "http web: answered wrongly in the whole"),
        (b"{}", "500 Oops", "http web: answered 500"),
        (b"{}", "204 No Content", "http web: "),
        (b'{"verdict": "maybe"}', "200 OK", "http web: answered wrongly in verdict"),
    ],
)
async def test_what_is_no_answer_is_a_fault(answer, status, words):
    with pytest.raises(ServiceError) as raised:
        await answered(answer, status=status)
    assert words in str(raised.value)


async def test_a_recipient_can_be_asked_about():
    seen = []
    async with scripted(http_saying(b'{"verdict": "defer"}', seen=seen)) as address:
        script = {"name": "web", "url": f"http://{address}", "at": "rcpt", "send": "message"}
        plugin = started(Http, scripts=[script])
        mail = make_mail(b"")
        verdict = await call(plugin, "rcpt", mail=mail, rcpt=mail.envelope.recipients[0])
        await plugin.shutdown()
    assert verdict.action is Action.DEFER
    told = orjson.loads(seen[0][1])
    assert (told["hook"], told["recipient"]) == ("rcpt", "b@example.net")
    assert "message" not in told


@pytest.mark.parametrize(
    "scripts",
    [
        [],
        [{"name": "a"}],
        [{"name": "a", "url": "x"}],
        [{"name": "a", "url": "http://x"}, {"name": "a", "url": "http://y"}],
    ],
)
def test_settings_that_are_refused(scripts):
    with pytest.raises(ValidationError):
        HttpSettings.model_validate({"scripts": scripts})
