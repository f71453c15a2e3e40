"""One click from the message to the refusal of the next one, by the program as it is run."""

import asyncio
import json
import re
import sqlite3
from collections.abc import Awaitable, Callable

import httpx
from tests.servers.client import Client
from tests.servers.postgres import LOGIN, PASSWORD, Postgres, a_postgres
from tests.servers.process import free_port
from tests.servers.relay import Relay, a_relay
from tests.servers.tls import Certificates, make_certificates

from relayproxy.builtin._outbox import Outbox
from relayproxy.testing.upstream import UpstreamSink

MESSAGE = b"From: news@example.org\r\nList-Id: <news.example.org>\r\nSubject: news\r\n\r\nHello\r\n"
SENDER, READER, OTHER = "news@example.org", "reader@far.example", "other@far.example"
CLICK = {"List-Unsubscribe": "One-Click"}


def configure(relay: Relay, upstream: str, web: int, database: Postgres | None = None) -> None:
    secret = {"file": str(relay.write_secret("secret", "a secret that is long enough"))}
    offer = {
        "url": "https://news.example/u/{token}",
        "mailto": "unsubscribe@example.org",
        "secrets": [secret],
    }
    hooks = {"url": "http://127.0.0.1:9/", "secret": secret, "file": str(relay.folder / "hooks.db")}
    made = make_certificates(relay.folder)
    shared = {}
    if database is not None:
        password = {"file": str(relay.write_secret("db", PASSWORD))}
        url = f"postgresql://127.0.0.1:{database.port}/postgres"
        shared = {"suppression": {"url": url, "login": LOGIN, "password": password, "cache": "0s"}}
    relay.configure(
        upstream,
        **shared,
        pipeline=[
            {"suppression": {} if shared else {"file": str(relay.folder / "list.db")}},
            {"list_unsubscribe": offer},
            {"webhooks": {**hooks, "events": ["unsubscribed"]}},
        ],
        unsubscribe={
            "listen": f"127.0.0.1:{web}",
            "tls": {"cert": str(made.server), "key": str(made.server_key)},
        },
        history={"url": f"sqlite:///{relay.folder}/history.db"},
        workers=2,
    )


async def told(client: Client, recipient: str) -> int:
    """Return the code of the answer to RCPT."""
    assert (await client.say(f"MAIL FROM:<{SENDER}>")).code == 250
    answer = await client.say(f"RCPT TO:<{recipient}>")
    assert (await client.say("RSET")).code == 250
    return answer.code


def offered(octets: bytes) -> tuple[str, str]:
    """Return the path of the web page that a message names, and the token that a mail is to bring."""
    text = octets.decode()
    found = re.search(r"<https://news\.example(/u/[^>]+)>,\s+<mailto:[^?]+\?subject=([^>]+)>", text)
    assert found, text
    return found[1], found[2]


async def test_one_click_from_the_message_to_the_next_refusal():
    async with UpstreamSink() as sink, a_relay() as relay:
        web = free_port()
        configure(relay, sink.address, web)
        await relay.start(relay.port, web)
        trust = Certificates(relay.folder).client_context()
        async with (
            await Client.open(relay.port) as client,
            httpx.AsyncClient(base_url=f"https://localhost:{web}", verify=trust) as browser,
        ):
            for recipient in (READER, OTHER):
                assert (await client.message(MESSAGE, SENDER, (recipient,))).code == 250
            path, token = offered(sink.messages[0].content)
            assert (await browser.get(path)).status_code == 200
            assert (await browser.head(path)).status_code == 200
            assert (await browser.post(path + "x", data=CLICK)).status_code == 404
            assert await told(client, READER) == 250
            assert (await browser.post(path, data=CLICK)).status_code == 200
            assert (
                await browser.post(path, files={name: (None, text) for name, text in CLICK.items()})
            ).is_success
            assert await told(client, READER) == 550
            assert await told(client, OTHER) == 250
            _, token = offered(sink.messages[1].content)
            by_mail = f"From: {OTHER}\r\nSubject: {token}\r\n\r\n".encode()
            assert (await client.message(by_mail, OTHER, ("unsubscribe@example.org",))).code == 250
            assert await told(client, OTHER) == 550
            status, text = await relay.output("suppression", "list", "-C", "relayproxy.yaml", "--json")
        assert status == 0, text
        assert [(row["address"], row["class"]) for row in json.loads(text)] == [
            (OTHER, "unsubscribed"),
            (READER, "unsubscribed"),
        ]
        logged = [one for one in relay.events if one["event"] == "unsubscribed"]
        assert [(one["to"], one["list"]) for one in logged] == [
            (READER, "news.example.org"),
            (READER, "news.example.org"),
            (OTHER, "news.example.org"),
        ]
        await relay.finish()
        outbox = Outbox(relay.folder / "hooks.db")
        events = [json.loads(text) for _, text in outbox.next(10)]
        outbox.close()
        assert [(one["event"], one["recipient"]) for one in events] == [
            ("unsubscribed", READER),
            ("unsubscribed", OTHER),
        ]
        history = sqlite3.connect(relay.folder / "history.db")
        (kept,) = history.execute("SELECT count(*) FROM event WHERE kind = 'unsubscribe'").fetchone()
        history.close()
        assert kept == 3


async def clicked(browser: httpx.AsyncClient, path: str) -> int:
    return (await browser.post(path, data=CLICK)).status_code


async def test_a_click_on_one_machine_counts_on_the_other_and_an_outage_promises_nothing():
    database = await a_postgres()
    try:
        async with UpstreamSink() as sink, a_relay() as here, a_relay() as there:
            web = free_port()
            configure(here, sink.address, web, database)
            configure(there, sink.address, free_port(), database)
            await here.start(here.port, web)
            await there.start()
            trust = Certificates(here.folder).client_context()
            async with (
                await Client.open(there.port) as client,
                httpx.AsyncClient(base_url=f"https://localhost:{web}", verify=trust) as browser,
            ):
                for recipient in (READER, OTHER):
                    assert (await client.message(MESSAGE, SENDER, (recipient,))).code == 250
                first, second = (offered(one.content)[0] for one in sink.messages)
                assert (await browser.post(first, data=CLICK)).status_code == 200
                assert [await told(client, READER), await told(client, OTHER)] == [550, 250]
                await database.end()
                assert (await browser.post(second, data=CLICK)).status_code == 503
                assert [await told(client, READER), await told(client, OTHER)] == [451, 451]
                await database.start()
                await until(200, lambda: clicked(browser, second))
                await until(550, lambda: told(client, OTHER))
    finally:
        await database.end()
        database.remove()


async def until(good: int, ask: Callable[[], Awaitable[int]]) -> None:
    """Ask until the database is back for who is asked: a machine that could not reach it leaves it alone for a moment."""
    async with asyncio.timeout(30):
        while True:
            if await ask() == good:
                return
            await asyncio.sleep(0.1)


async def test_the_page_outlives_a_reload():
    async with UpstreamSink() as sink, a_relay() as relay:
        web = free_port()
        configure(relay, sink.address, web)
        await relay.start(relay.port, web)
        trust = Certificates(relay.folder).client_context()
        async with httpx.AsyncClient(base_url=f"https://localhost:{web}", verify=trust) as browser:
            assert await clicked(browser, "/u/nothing") == 404
            relay.reload()
            await relay.until_logged("reloaded")
            assert await clicked(browser, "/u/nothing") == 404
        status, text = await relay.output("status", "-C", "relayproxy.yaml", "-o", "json")
        assert status == 0, text
        assert json.loads(text)["unsubscribe"] == f"127.0.0.1:{web}"
