"""One click from the message to the refusal of the next one, by the program as it is run."""

import json
import re
import sqlite3

import httpx
from tests.servers.client import Client
from tests.servers.process import free_port
from tests.servers.relay import Relay, a_relay
from tests.servers.tls import Certificates, make_certificates

from relayproxy.builtin._outbox import Outbox
from relayproxy.testing.upstream import UpstreamSink

MESSAGE = b"From: news@example.org\r\nList-Id: <news.example.org>\r\nSubject: news\r\n\r\nHello\r\n"
SENDER, READER, OTHER = "news@example.org", "reader@far.example", "other@far.example"
CLICK = {"List-Unsubscribe": "One-Click"}


def configure(relay: Relay, upstream: str, web: int) -> None:
    secret = {"file": str(relay.write_secret("secret", "a secret that is long enough"))}
    offer = {
        "url": "https://news.example/u/{token}",
        "mailto": "unsubscribe@example.org",
        "secrets": [secret],
    }
    hooks = {"url": "http://127.0.0.1:9/", "secret": secret, "file": str(relay.folder / "hooks.db")}
    made = make_certificates(relay.folder)
    relay.configure(
        upstream,
        pipeline=[
            {"suppression": {"file": str(relay.folder / "list.db")}},
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


async def accepted(client: Client, recipient: str) -> bool:
    assert (await client.say(f"MAIL FROM:<{SENDER}>")).code == 250
    answer = await client.say(f"RCPT TO:<{recipient}>")
    assert (await client.say("RSET")).code == 250
    assert answer.code in (250, 550)
    return answer.code == 250


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
            assert await accepted(client, READER)
            assert (await browser.post(path, data=CLICK)).status_code == 200
            assert (
                await browser.post(path, files={name: (None, text) for name, text in CLICK.items()})
            ).is_success
            assert not await accepted(client, READER)
            assert await accepted(client, OTHER)
            _, token = offered(sink.messages[1].content)
            by_mail = f"From: {OTHER}\r\nSubject: {token}\r\n\r\n".encode()
            assert (await client.message(by_mail, OTHER, ("unsubscribe@example.org",))).code == 250
            assert not await accepted(client, OTHER)
            status, text = await relay.output("suppression", "list", "-C", "relayproxy.yaml", "--json")
        assert status == 0, text
        assert [(row["address"], row["class"]) for row in json.loads(text)] == [
            (OTHER, "unsubscribed"),
            (READER, "unsubscribed"),
        ]
        told = [one for one in relay.events if one["event"] == "unsubscribed"]
        assert [(one["to"], one["list"]) for one in told] == [
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
