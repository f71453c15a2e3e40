"""Key files that change under a running proxy: every message is signed, with a key that DNS has, or deferred."""

import asyncio
import json

import dkim
from tests.cli.name_server import NameServer
from tests.servers.client import Client
from tests.servers.process import free_port
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


async def test_a_key_that_goes_missing_defers_the_mail_and_raises_an_alarm(relay: Relay):
    home = relay.folder / "keys/example.org"
    home.mkdir(parents=True)
    for path in (home / "s.key", relay.folder / "keys/example.net.other.key"):
        path.write_bytes(new_rsa_key().pem())
        path.chmod(0o600)
    relay.expect_tracebacks()
    monitor = free_port()
    async with UpstreamSink() as sink:
        relay.configure(
            sink.address,
            metrics={"listen": f"127.0.0.1:{monitor}"},
            pipeline=[{"dkim_sign": {"keys": "keys"}}],
        )
        await relay.start()
        async with await Client.open(relay.port) as client:
            assert (await client.message(MESSAGE)).code == 250
            assert await alarms(monitor) == 0
            (home / "s.key").rename(relay.folder / "away")
            await relay.until_logged("s.key: No such file")
            answer = await client.message(MESSAGE)
            assert (answer.code, len(sink.messages)) == (451, 1)
            assert "s.key" not in answer.text
            assert await alarms(monitor) == 1
            (relay.folder / "away").rename(home / "s.key")
            await relay.until_logged("no longer so")
            assert (await client.message(MESSAGE)).code == 250
            assert await alarms(monitor) == 0
            assert sink.messages[-1].content.count(b"DKIM-Signature:") == 1


async def alarms(port: int) -> float:
    """Return what the gauge says."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    (line,) = [
        line for line in text.splitlines() if line.startswith('relayproxy_plugin_alarms{plugin="dkim_sign"}')
    ]
    return float(line.rpartition(" ")[2])
