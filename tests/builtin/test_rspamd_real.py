"""The plugin with a real Rspamd, started once."""

import pytest
import pytest_asyncio
from tests.builtin.scanning import RAW, asked, started
from tests.servers.rspamd_scanner import RspamdScanner

from relayproxy.builtin.rspamd import Rspamd

pytestmark = [pytest.mark.servers, pytest.mark.asyncio(loop_scope="module")]

MANY = b"X-Old: 1\r\nX-Many: 1\r\nX-Many: 2\r\nX-Old: 2\r\nX-Spam: No\r\n"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def plugin():
    server = RspamdScanner()
    try:
        await server.start()
        plugin = started(Rspamd, url=server.address, timeout=20)
        yield plugin
        await plugin.shutdown()
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("word", "reply", "props"),
    [
        (b"hello", None, {"action": "no action", "score": "0.00"}),
        (b"low-word", None, {"action": "no action", "symbol.TEST_LOW": "1.50"}),
        (b"grey-word", None, {"action": "greylist", "symbol.TEST_GREY": "5.00"}),
        (b"mark-word", None, {"action": "add header", "required": "15.00"}),
        (b"soft-word", "451 4.7.1 come back later", {"action": "soft reject"}),
        (b"reject-word", "550 5.7.1 Message refused as spam", {"action": "reject", "score": "20.00"}),
    ],
)
async def test_words(plugin, word, reply, props):
    verdict, finding, _ = await asked(plugin, RAW.replace(b"hello", word))
    assert (verdict.reply and str(verdict.reply)) == reply
    assert props.items() <= finding.props.items()


async def test_it_sees_client_and_envelope(plugin):
    _, _, message = await asked(plugin, recipients=["b@example.net", "c@example.net"], identity="me")
    assert message.header("X-Seen") == (
        "192.0.2.1 client.example.org nil me a@example.org b@example.net,c@example.net test.1"
    )


async def test_its_changes_of_the_header(plugin):
    _, _, message = await asked(plugin, MANY + RAW.replace(b"hello", b"headers-word mark-word"))
    assert [field.value for field in message.all("X-Old")] == []
    assert [field.value for field in message.all("X-Many")] == ["1"]
    assert [field.value for field in message.all("X-Two")] == ["first", "second"]
    assert message.header("X-Spam") == "Yes"
    assert message.fields[0].name == "X-Top"
    assert bytes(message.body) == b"headers-word mark-word\r\n"


async def test_its_subject(plugin):
    _, _, message = await asked(plugin, RAW.replace(b"hello", b"subject-word"))
    assert message.subject == "[spam] x"
