"""The plugin with real OpenDKIMs: one signs, one verifies what it signed."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from tests.builtin.scanning import asked, started
from tests.servers.opendkim import OpenDkim, StrictOpenDkim
from tests.servers.unbound import Unbound

from relayproxy.api import Direction, ServiceError
from relayproxy.builtin.milter import Milter
from relayproxy.mailauth.dkim_keys import SigningKey, new_rsa_key

pytestmark = [pytest.mark.servers, pytest.mark.asyncio(loop_scope="module")]

RAW = (
    b"Received: from a by b; Fri, 11 Jul 2003 21:00:37 -0700\r\n"
    b"From:  Joe <joe@example.org>\r\n"
    b"To: suzie@example.net,\r\n\tother@example.net\r\n"
    b"Subject:Is dinner\r\n  ready?\r\n"
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700\r\n"
    b"Message-ID: <1@example.org>\r\n"
    b"\r\n"
    b"Hi.\r\n\r\n  We lost the game. \r\n\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Servers:
    """Signers by canonical form, and a verifier."""

    signers: dict[str, OpenDkim]
    verifier: OpenDkim


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return new_rsa_key()


@pytest.fixture(scope="module")
def key_file(key: SigningKey, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file: Path = tmp_path_factory.mktemp("keys") / "key.pem"
    file.write_bytes(key.pem())
    return file


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def servers(key_file: Path, key: SigningKey) -> AsyncIterator[Servers]:
    begun = [dns := Unbound({("s._domainkey.example.org", "TXT"): key.record()})]
    try:
        await dns.start()
        signers = {}
        for form in ("simple/simple", "relaxed/relaxed"):
            begun.append(signer := OpenDkim(dns.port))
            await signer.start_signing("example.org", "s", key_file, canonicalization=form)
            signers[form] = signer
        begun.append(verifier := OpenDkim(dns.port))
        await verifier.start()
        yield Servers(signers, verifier)
    finally:
        for server in reversed(begun):
            await server.stop()


def plugin_for(server, at="message"):
    return started(Milter, milters=[{"name": "opendkim", "address": server.address, "at": at}])


@pytest.mark.parametrize("form", ["simple/simple", "relaxed/relaxed"])
@pytest.mark.parametrize("at", ["message", "before_forward"])
async def test_what_it_signs_verifies(servers, form, at):
    facts = {"ip": "127.0.0.1", "sender": "joe@example.org", "direction": Direction.OUTBOUND}
    verdict, _, signed = await asked(plugin_for(servers.signers[form], at), RAW, **facts)
    assert verdict is None
    assert signed.fields[0].name == "DKIM-Signature"
    assert f"c={form};" in signed.header("DKIM-Signature")
    assert bytes(signed).endswith(RAW)
    _, _, checked = await asked(plugin_for(servers.verifier), bytes(signed))
    assert "dkim=pass" in checked.header("Authentication-Results")


async def test_a_changed_message_fails_and_an_unsigned_one_is_none(servers):
    facts = {"ip": "127.0.0.1", "sender": "joe@example.org", "direction": Direction.OUTBOUND}
    _, _, signed = await asked(plugin_for(servers.signers["simple/simple"]), RAW, **facts)
    _, _, checked = await asked(plugin_for(servers.verifier), bytes(signed).replace(b"lost", b"won "))
    assert "dkim=fail" in checked.header("Authentication-Results")
    _, _, checked = await asked(plugin_for(servers.verifier), RAW)
    assert "dkim=none" in checked.header("Authentication-Results")


async def test_its_refusal_is_ours():
    strict = StrictOpenDkim()
    try:
        await strict.start()
        verdict, finding, _ = await asked(plugin_for(strict), RAW.replace(b"Date:", b"X-Date:"))
        assert verdict.reply.code == 550
        assert finding.result == "hit"
        assert (await asked(plugin_for(strict), RAW))[0] is None
        with pytest.raises(ServiceError, match="too late to reject"):
            await asked(plugin_for(strict, "before_forward"), RAW.replace(b"Date:", b"X-Date:"))
    finally:
        await strict.stop()
