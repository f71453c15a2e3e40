"""A rotation under a running proxy: every message is signed, and every signature verifies with what DNS has."""

import asyncio
import json

import dkim
from tests.cli.name_server import NameServer
from tests.servers.client import Client
from tests.servers.relay import Relay

from relayproxy.mailauth.dkim_keys import new_rsa_key
from relayproxy.testing.upstream import UpstreamSink

MESSAGE = b"From: a@example.org\r\nTo: b@example.net\r\nSubject: signed\r\n\r\nbody\r\n"


def selectors(message: bytes, server: NameServer) -> set[str]:
    """Verify all signatures with the records of the moment, and return their selectors."""

    def published(name: bytes, **_: object) -> bytes | None:
        found = server.zone.get((name.decode().rstrip(".").lower(), "TXT"))
        return found[0].replace('" "', "").strip('"').encode() if found else None

    count = message.count(b"DKIM-Signature:")
    assert count, "it was not signed"
    verifier = dkim.DKIM(message)
    assert all(verifier.verify(index, dnsfunc=published) for index in range(count))
    return {
        line.split(b"s=", 1)[1].split(b";")[0].decode()
        for line in message.replace(b"\r\n\t", b" ").split(b"\r\n")
        if line.startswith(b"DKIM-Signature:")
    }


async def test_mail_is_signed_with_published_keys_all_the_way(relay: Relay):
    home = relay.folder / "keys/example.org"
    home.mkdir(parents=True)
    old = new_rsa_key()
    (home / "old.key").write_bytes(old.pem())
    (home / "old.key").chmod(0o600)
    with NameServer() as server:
        server.set("old._domainkey.example.org", "TXT", old.record())
        async with UpstreamSink() as sink:
            relay.configure(
                sink.address,
                dns={"servers": [server.place]},
                pipeline=[{"dkim_sign": {"keys": "keys"}}],
            )
            await relay.start()
            async with await Client.open(relay.port) as client:

                async def sent() -> set[str]:
                    assert (await client.message(MESSAGE)).code == 250
                    return selectors(sink.messages[-1].content, server)

                assert await sent() == {"old"}
                await rotated(relay, server, "example.org", code=1)
                assert await sent() == {"old"}
                await rotated(relay, server, "--activate", code=0)
                retired = asyncio.create_task(relay.until_logged("retired, signs no more"))
                while not retired.done():
                    await sent()
                    await asyncio.wait({retired}, timeout=0.05)
                await retired
                used = await sent()
                assert used == {one.stem for one in home.glob("*.key")}
                assert "old" not in used


async def rotated(relay: Relay, server: NameServer, *arguments: str, code: int) -> None:
    """Take a step, and publish what it says."""
    at = ("dkim", "rotate", "-C", str(relay.config_file), "-o", "json")
    status, output = await relay.output(*at, *arguments)
    assert status == code, output
    for step in json.loads(output):
        if step["publish"]:
            server.set(step["name"], "TXT", step["publish"])
