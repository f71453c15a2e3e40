"""Two proxies with one PostgreSQL, at the outer contract: takeover, outages, what an administrator sees."""

import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.servers.client import Client
from tests.servers.postgres import LOGIN, PASSWORD, Postgres, a_postgres
from tests.servers.process import free_port, wait_for
from tests.servers.relay import Relay, a_relay

from relayproxy.testing.upstream import UpstreamSink

HEAD = b"From: a@example.org\r\nTo: b@example.net\r\nSubject: queued\r\nMessage-ID: <1@example.org>\r\n"
MESSAGE = HEAD + b"\r\n.dot\r\nbody\r\n"
LARGE = HEAD + b"\r\n" + b"0123456789\r\n" * 100_000


@pytest.fixture
async def postgres() -> AsyncIterator[Postgres]:
    server = await a_postgres()
    yield server
    await server.end()
    server.remove()


@pytest.fixture
async def other() -> AsyncIterator[Relay]:
    async with a_relay() as relay:
        yield relay


def configure(relay: Relay, upstream: str, postgres: Postgres, **changes: Any) -> None:
    secret = relay.write_secret("spool-password", PASSWORD)
    usual = {
        "routes": [{"upstream": "sink", "delivery": "queue", "queue": {"retry": ["200ms"], "expire": "1h"}}],
        "spool": {
            "url": f"postgresql://127.0.0.1:{postgres.port}/postgres",
            "login": LOGIN,
            "password": {"file": str(secret)},
        },
    }
    relay.configure(upstream, **(usual | changes))


def waiting(postgres: Postgres) -> int:
    with postgres.connect() as database:
        found = database.execute("SELECT count(*) FROM part").fetchone()
    assert found is not None
    return int(found[0])


async def send(relay: Relay, content: bytes = MESSAGE) -> Any:
    async with await Client.open(relay.port) as client:
        return await client.message(content=content)


async def test_what_is_queued_is_delivered_octet_for_octet(relay: Relay, postgres: Postgres):
    async with UpstreamSink() as sink:
        configure(relay, sink.address, postgres, workers=2)
        await relay.start()
        for content in (MESSAGE, LARGE):
            heard = await send(relay, content)
            assert heard.code == 250
            assert "queued id=" in heard.text
        await sink.until_messages(2)
        bodies = sorted(len(message.content) for message in sink.messages)
        assert all(
            any(message.content.endswith(one) for message in sink.messages) for one in (MESSAGE, LARGE)
        ), bodies
        await wait_for(lambda: waiting(postgres) == 0, "an empty queue")
    assert PASSWORD not in relay.log


async def test_the_mail_of_a_proxy_that_is_killed_is_delivered_by_another(
    relay: Relay, other: Relay, postgres: Postgres
):
    port = free_port()
    configure(relay, f"127.0.0.1:{port}", postgres)
    await relay.start()
    for number in range(10):
        assert (await send(relay, MESSAGE + b"%d\r\n" % number)).code == 250
    for pid in {relay.pid, *relay.workers()}:
        os.kill(pid, signal.SIGKILL)
    assert relay.popen is not None
    relay.popen.wait()
    relay.popen = None
    # Whatever was leased when it died is due when its lease ends: that is brought forward here.
    with postgres.connect() as database:
        database.execute("UPDATE part SET due = 0")
    async with UpstreamSink(port=port) as sink:
        configure(other, f"127.0.0.1:{port}", postgres)
        await other.start()
        await sink.until_messages(10)
        assert len({message.content.rpartition(b"\r\n\r\n")[2] for message in sink.messages}) == 10
        await wait_for(lambda: waiting(postgres) == 0, "an empty queue")


async def test_a_database_that_is_down_is_a_451_and_comes_back(relay: Relay, postgres: Postgres):
    """Also at the start, and what was stored before is delivered after."""
    await postgres.end()
    async with UpstreamSink() as sink:
        configure(relay, sink.address, postgres)
        await relay.start()
        heard = await send(relay, MESSAGE + b"0\r\n")
        assert (heard.code, heard.enhanced) == (451, "4.3.0")
        await postgres.start()

        while (await send(relay, MESSAGE + b"1\r\n")).code != 250:
            relay.check_alive()
        await sink.until_messages(1)
        await wait_for(lambda: waiting(postgres) == 0, "an empty queue")
        await postgres.end()
        assert (await send(relay, MESSAGE + b"2\r\n")).code == 451
        await postgres.start()
        while (await send(relay, MESSAGE + b"2\r\n")).code != 250:
            relay.check_alive()
        await sink.until_messages(2)
        await wait_for(lambda: waiting(postgres) == 0, "an empty queue")
        assert len(sink.messages) == 2
    assert "queue_failed" in relay.log
    assert PASSWORD not in relay.log


async def test_what_an_administrator_sees_and_changes(relay: Relay, postgres: Postgres):
    configure(relay, f"127.0.0.1:{free_port()}", postgres)
    status, text = await relay.output("queue", "list", "-C", str(relay.config_file))
    assert status != 0
    assert "no spool in the database" in text
    await relay.start()
    assert (await send(relay)).code == 250
    await relay.until_logged("queue_paused")
    await relay.finish()
    status, text = await relay.output("queue", "list", "--json", "-C", str(relay.config_file))
    assert status == 0, text
    (row,) = json.loads(text)["messages"]
    assert row["sender"] == "a@example.org"
    for verb in ("hold", "unhold", "retry", "drop"):
        status, text = await relay.output("queue", verb, row["id"], "--yes", "-C", str(relay.config_file))
        assert status == 0, text
    assert waiting(postgres) == 0
    status, text = await relay.output("config", "show", "-C", str(relay.config_file))
    assert status == 0
    assert PASSWORD not in text
