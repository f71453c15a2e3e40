"""The queue at the outer contract: a real process, real sockets, a real store; the sink is the next hop."""

import json
import os
import re
import signal
import sqlite3
from typing import Any

import pytest
from tests.servers.client import Client
from tests.servers.process import free_port, wait_for
from tests.servers.relay import Relay, a_relay

from relayproxy.testing.upstream import Capabilities, Disconnect, Fault, Step, UpstreamSink, answer

HEAD = b"From: a@example.org\r\nTo: b@example.net\r\nSubject: queued\r\nMessage-ID: <1@example.org>\r\n"
MESSAGE = HEAD + b"\r\n.dot\r\nbody\r\n"
QUICK = {"retry": ["200ms"], "expire": "1h"}


def configure(proxy: Relay, upstream: str, *, route: dict[str, Any] | None = None, **changes: Any) -> None:
    """One upstream behind a queue that is quick to try again."""
    usual = {"upstream": "sink", "delivery": "queue", "queue": QUICK}
    proxy.configure(
        upstream,
        **{"routes": [{**usual, **(route or {})}], "spool": spool(proxy), **changes},
    )


def spool(relay: Relay, **changes: Any) -> dict[str, Any]:
    return {"url": f"sqlite://{relay.folder}/spool/spool.db", "min_free": "1 MB", **changes}


def parts(relay: Relay) -> list[tuple[Any, ...]]:
    """What is in the store: standing, attempts, reason."""
    database = sqlite3.connect(relay.folder / "spool" / "spool.db")
    try:
        return database.execute("SELECT standing, attempts, reason FROM part").fetchall()
    finally:
        database.close()


async def until_empty(relay: Relay) -> None:
    await wait_for(lambda: not parts(relay), "an empty queue")


async def send(relay: Relay, **arguments: Any):
    async with await Client.open(relay.port) as client:
        return await client.message(**({"content": MESSAGE} | arguments))


def kill(relay: Relay) -> None:
    """Kill the supervisor and all workers at once."""
    for pid in {relay.pid, *relay.workers()}:
        os.kill(pid, signal.SIGKILL)
    assert relay.popen is not None
    relay.popen.wait()
    relay.popen = None


async def test_what_is_queued_is_delivered_octet_for_octet(relay: Relay):
    async with UpstreamSink() as sink:
        configure(relay, sink.address)
        await relay.start()
        heard = await send(relay)
        assert (heard.code, heard.enhanced) == (250, "2.0.0")
        found = re.fullmatch(r"2\.0\.0 Ok: queued id=(\S+)", heard.text)
        assert found
        await sink.until_messages(1)
        (message,) = sink.messages
        assert message.content.endswith(MESSAGE)
        assert f"id {found[1]};".encode() in message.content[: -len(MESSAGE)]
        assert message.recipients == ("b@example.net",)
        await until_empty(relay)
        assert sink.complaints == []


async def test_a_large_message_takes_a_file_and_leaves_none(relay: Relay):
    large = HEAD + b"\r\n" + b"0123456789\r\n" * 200_000
    async with UpstreamSink() as sink:
        configure(relay, sink.address)
        await relay.start()
        assert (await send(relay, content=large)).code == 250
        await sink.until_messages(1)
        assert sink.messages[0].content.endswith(large)
        await until_empty(relay)
        files = relay.folder / "spool" / "content"
        await wait_for(lambda: not [one for one in files.rglob("*") if one.is_file()], "no files")


async def test_an_upstream_that_is_down_gets_it_when_it_is_back(relay: Relay):
    port = free_port()
    configure(relay, f"127.0.0.1:{port}")
    await relay.start()
    assert (await send(relay)).code == 250
    await relay.until_logged("queue_paused")
    async with UpstreamSink(port=port) as sink:
        await sink.until_messages(1)
        await until_empty(relay)
        await relay.until_logged("queue_resumed")
        assert len(sink.messages) == 1


async def test_sigterm_leaves_the_queue_for_the_next_start(relay: Relay):
    port = free_port()
    configure(relay, f"127.0.0.1:{port}")
    await relay.start()
    for number in range(5):
        assert (await send(relay, content=MESSAGE + b"%d\r\n" % number)).code == 250
    await relay.finish()
    assert len(parts(relay)) == 5
    async with UpstreamSink(port=port) as sink:
        await relay.start()
        await sink.until_messages(5)
        await until_empty(relay)
        assert len(sink.messages) == 5


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_kill_loses_nothing_that_was_acknowledged(relay: Relay, workers: int):
    port = free_port()
    configure(relay, f"127.0.0.1:{port}", workers=workers)
    await relay.start()
    for number in range(10):
        heard = await send(relay, content=MESSAGE + b"%d\r\n" % number)
        assert heard.code == 250
    kill(relay)
    async with UpstreamSink(port=port) as sink:
        configure(relay, f"127.0.0.1:{port}", workers=workers)
        # Whatever was leased when it died is due when its lease ends: that is brought forward here.
        database = sqlite3.connect(relay.folder / "spool" / "spool.db")
        with database:
            database.execute("UPDATE part SET due = 0")
        database.close()
        await relay.start()
        await sink.until_messages(10)
        bodies = {message.content.rpartition(b"\r\n\r\n")[2] for message in sink.messages}
        assert len(bodies) == 10
        await until_empty(relay)


async def test_each_recipient_has_its_own_fate_and_a_refusal_comes_back_as_a_report(relay: Relay):
    refusals = {"x@example.net": b"550-5.1.1 Nobody\r\n550 5.1.1 of that name\r\n"}
    async with UpstreamSink(refusals=refusals) as sink:
        sink.plan.add(Fault(Step.RCPT, answer(450, "4.2.1 Busy")))
        configure(relay, sink.address)
        await relay.start()
        heard = await send(relay, recipients=("later@example.net", "x@example.net", "b@example.net"))
        assert heard.code == 250
        await sink.until_messages(3)
        await until_empty(relay)
        got = {message.recipients: message for message in sink.messages}
        assert set(got) == {("b@example.net",), ("later@example.net",), ("a@example.org",)}
        report = got["a@example.org",]
        assert report.sender == ""
        assert b"Final-Recipient: rfc822; x@example.net\r\n" in report.content
        assert b"Status: 5.1.1\r\n" in report.content
        assert b"550 5.1.1 Nobody" in report.content
        assert b"later@example.net>:" not in report.content
        assert b"Subject: queued" in report.content


async def test_a_null_sender_is_never_told(relay: Relay):
    async with UpstreamSink(refusals={"b@example.net": b"550 5.1.1 no\r\n"}) as sink:
        configure(relay, sink.address)
        await relay.start()
        assert (await send(relay, sender="")).code == 250
        await relay.until_logged("bounce_of_a_bounce")
        await until_empty(relay)
        assert sink.messages == []


async def test_a_stranger_who_was_not_verified_gets_no_bounce_and_the_message_is_kept(relay: Relay):
    """The next hop knew the recipient, and refuses the content: whom could one tell?"""
    async with UpstreamSink() as sink:
        sink.plan.add(Fault(Step.DOT, answer(554, "5.7.1 spam")))
        configure(relay, sink.address, relay={"domains": ["example.net"], "networks": []})
        await relay.start()
        assert (await send(relay)).code == 250
        await wait_for(lambda: [row[0] for row in parts(relay)] == ["held"], "a held message")
        assert "never verified" in parts(relay)[0][2]
        assert sink.messages == []


async def test_a_strangers_recipient_is_refused_at_rcpt_in_the_words_of_the_next_hop(relay: Relay):
    async with UpstreamSink(refusals={"b@example.net": b"550 5.1.1 nobody here\r\n"}) as sink:
        configure(relay, sink.address, relay={"domains": ["example.net"], "networks": []})
        await relay.start()
        heard = await send(relay)
        assert (heard.code, heard.enhanced, heard.text) == (550, "5.1.1", "5.1.1 nobody here")
        assert parts(relay) == []
    heard = await send(relay)
    assert heard.code == 550, "it is remembered while the next hop is away"


async def test_an_unverified_strangers_message_is_not_queued_while_nobody_can_be_asked(relay: Relay):
    configure(relay, f"127.0.0.1:{free_port()}", relay={"domains": ["example.net"], "networks": []})
    await relay.start()
    heard = await send(relay)
    assert (heard.code, heard.enhanced) == (451, "4.1.1")
    assert parts(relay) == []


async def test_what_expires_comes_back(relay: Relay):
    async with UpstreamSink() as sink:
        sink.refusals = {"b@example.net": b"450 4.2.1 Busy\r\n"}
        configure(relay, sink.address, route={"queue": {"retry": ["200ms"], "expire": "1s"}})
        await relay.start()
        assert (await send(relay)).code == 250
        await sink.until_messages(1)
        (report,) = sink.messages
        assert report.recipients == ("a@example.org",)
        assert b"Status: 4.4.7\r\n" in report.content
        await until_empty(relay)


async def test_success_is_reported_as_relayed_where_the_next_hop_reports_nothing(relay: Relay):
    async with UpstreamSink(Capabilities(dsn=False)) as sink:
        configure(relay, sink.address)
        await relay.start()
        async with await Client.open(relay.port) as client:
            assert "DSN" in client.extensions
            await client.say("MAIL FROM:<a@example.org> RET=HDRS ENVID=e+2B1")
            await client.say("RCPT TO:<b@example.net> NOTIFY=SUCCESS ORCPT=rfc822;B@example.net")
            assert (await client.data(MESSAGE)).code == 250
        await sink.until_messages(2)
        report = next(message for message in sink.messages if message.sender == "")
        assert b"Action: relayed\r\n" in report.content
        assert b"Original-Envelope-Id: e+1\r\n" in report.content
        assert b"Original-Recipient: rfc822; B@example.net\r\n" in report.content
        await until_empty(relay)


async def test_recipients_of_several_routes_are_split(relay: Relay):
    async with UpstreamSink() as near, UpstreamSink() as far:
        configure(
            relay,
            near.address,
            upstreams={"near": {"address": near.address}, "far": {"address": far.address}},
            routes=[
                {"upstream": "far", "delivery": "queue", "recipient_domains": ["example.com"]},
                {"upstream": "near", "delivery": "queue"},
            ],
        )
        await relay.start()
        heard = await send(relay, recipients=("b@example.net", "c@example.com", "d@example.net"))
        assert heard.code == 250
        await near.until_messages(1)
        await far.until_messages(1)
        assert near.messages[0].recipients == ("b@example.net", "d@example.net")
        assert far.messages[0].recipients == ("c@example.com",)
        assert near.messages[0].content == far.messages[0].content
        await until_empty(relay)


@pytest.mark.parametrize("floor", [{"min_free": "900 TiB"}, {"min_free_inodes": 1 << 60}])
async def test_without_room_the_client_keeps_it(relay: Relay, floor: dict[str, Any]):
    async with UpstreamSink() as sink:
        configure(relay, sink.address, spool=spool(relay, **floor))
        await relay.start()
        heard = await send(relay)
        assert (heard.code, heard.enhanced) == (452, "4.3.1")
        assert (await send(relay)).code == 452
        assert [line["event"] for line in relay.events].count("queue_full") == 1
        assert sink.messages == []


async def test_a_store_that_fails_is_a_451(relay: Relay):
    async with UpstreamSink() as sink:
        configure(relay, sink.address)
        await relay.start()
        database = sqlite3.connect(relay.folder / "spool" / "spool.db")
        with database:
            database.execute(
                "CREATE TRIGGER no BEFORE INSERT ON message BEGIN SELECT RAISE(ABORT, 'no'); END"
            )
        database.close()
        heard = await send(relay)
        assert (heard.code, heard.enhanced) == (451, "4.3.0")
        await relay.until_logged("queue_store_failed")
        assert sink.messages == []


# -- pass-through, and the queue when the upstream is down -----------------------------------------------------

WHEN_DOWN = {"delivery": "pass-through", "when_down": "queue"}


async def test_when_down_is_transparent_while_the_upstream_is_there(relay: Relay):
    async with UpstreamSink(refusals={"x@example.net": b"550 5.1.1 no such user\r\n"}) as sink:
        sink.plan.add(Fault(Step.DOT, answer(250, "2.0.0 taken as 77")))
        configure(relay, sink.address, route=WHEN_DOWN)
        await relay.start()
        async with await Client.open(relay.port) as client:
            _, refused, taken = await client.envelope(recipients=("x@example.net", "b@example.net"))
            assert (refused.code, refused.text) == (550, "5.1.1 no such user")
            assert taken.code == 250
            assert (await client.data(MESSAGE)).text.startswith("2.0.0 taken as 77 id=")
            await client.say("NOOP")
        sink.plan.add(Fault(Step.DOT, answer(451, "4.3.0 not now")))
        assert (await send(relay)).text == "4.3.0 not now"
        assert parts(relay) == []


async def test_when_down_queues_what_can_not_be_sent_and_says_so(relay: Relay):
    port = free_port()
    configure(relay, f"127.0.0.1:{port}", route=WHEN_DOWN)
    await relay.start()
    heard = await send(relay)
    assert heard.text.startswith("2.0.0 Ok: queued id=")
    assert len(parts(relay)) == 1
    async with UpstreamSink(port=port) as sink:
        await sink.until_messages(1)
        await until_empty(relay)
        assert sink.messages[0].content.endswith(MESSAGE)


async def test_when_down_an_unverified_stranger_keeps_it(relay: Relay):
    configure(
        relay,
        f"127.0.0.1:{free_port()}",
        route=WHEN_DOWN,
        relay={"domains": ["example.net"], "networks": []},
    )
    await relay.start()
    heard = await send(relay)
    assert (heard.code, heard.enhanced) == (451, "4.4.1")
    assert parts(relay) == []


async def test_a_loss_after_rcpt_is_the_clients_affair_and_not_the_queues(relay: Relay):
    async with UpstreamSink() as sink:
        sink.plan.add(Fault(Step.DATA, Disconnect()))
        configure(relay, sink.address, route=WHEN_DOWN)
        await relay.start()
        heard = await send(relay)
        assert heard.kind == 4
        assert parts(relay) == []


async def test_two_workers_share_the_store_and_deliver_each_message_once():
    async with a_relay() as relay, UpstreamSink() as sink:
        configure(relay, sink.address, workers=2)
        await relay.start()
        for number in range(30):
            assert (await send(relay, content=MESSAGE + b"%d\r\n" % number)).code == 250
        await sink.until_messages(30)
        await until_empty(relay)
        assert len(sink.messages) == 30


HOLDER = """
from relayproxy.api import hold, hook

@hook
def message(mail):
    mail.note("oddity", "hit", reason="looks odd")
    return hold("looks odd")
"""


async def test_what_a_plugin_holds_is_stored_and_not_sent(relay: Relay):
    async with UpstreamSink() as sink:
        (relay.folder / "plugins").mkdir()
        (relay.folder / "plugins" / "holder.py").write_text(HOLDER)
        configure(relay, sink.address, plugin_folders=["plugins"], pipeline=["holder"])
        await relay.start()
        heard = await send(relay)
        assert heard.text.startswith("2.0.0 Ok: held for review id=")
        assert parts(relay) == [("held", 0, "looks odd")]
        assert sink.messages == []


async def test_a_held_message_is_listed_and_released_through_the_rewriting_hooks(relay: Relay):
    marker = HOLDER + (
        "from relayproxy.api import AddHeader\n\n"
        "@hook\ndef before_forward(mail, route):\n    return AddHeader('X-Passed', f'{mail.origin} {mail.finding(\"oddity\").reason}')\n"
    )
    async with UpstreamSink() as sink:
        (relay.folder / "plugins").mkdir()
        (relay.folder / "plugins" / "holder.py").write_text(marker)
        configure(relay, sink.address, plugin_folders=["plugins"], pipeline=["holder"])
        await relay.start()
        id_ = (await send(relay)).text.rpartition("id=")[2]
        config = ("-C", str(relay.config_file))
        status, text = await relay.output("quarantine", "list", "--json", *config)
        assert status == 0
        assert [row["id"] for row in json.loads(text)["messages"]] == [id_]
        assert (await relay.output("quarantine", "show", id_, *config))[1].count("looks odd") == 1
        status, text = await relay.output("quarantine", "release", "--yes", "--json", id_, *config)
        assert (status, json.loads(text)) == (0, {"found": 1, "changed": 1})
        await sink.until_messages(1)
        assert sink.messages[0].content.startswith(b"X-Passed: release looks odd\r\n")
        assert sink.messages[0].content.endswith(MESSAGE)
        await until_empty(relay)


async def test_an_administrator_gives_a_message_up_and_its_sender_is_told(relay: Relay):
    async with UpstreamSink(refusals={"b@example.net": b"450 4.2.1 Busy\r\n"}) as sink:
        configure(relay, sink.address, route={"queue": {"retry": ["1h"], "expire": "2h"}})
        await relay.start()
        id_ = (await send(relay)).text.rpartition("id=")[2]
        await relay.until_logged("queue_delivery")
        config = ("-C", str(relay.config_file))
        await wait_for(lambda: [row[1] for row in parts(relay)] == [1], "the first attempt's record")
        status, text = await relay.output("queue", "show", id_, *config)
        assert "450 4.2.1 Busy" in text
        status, _ = await relay.output("queue", "fail", "--yes", id_, *config)
        assert status == 0
        await sink.until_messages(1)
        assert b"Given up by an administrator" in sink.messages[0].content
        await until_empty(relay)
        status, text = await relay.output("queue", "summary", *config)
        assert (status, text) == (0, "0 in all\n")
        status, text = await relay.output("queue", "drop", "--yes", "--all", *config)
        assert (status, text) == (1, "relayproxy: nothing is found\n")


async def test_a_route_that_is_gone_is_told_and_its_mail_can_be_rerouted(relay: Relay):
    port = free_port()
    configure(relay, f"127.0.0.1:{port}", route={"name": "old"})
    await relay.start()
    assert (await send(relay)).code == 250
    await relay.finish()
    async with UpstreamSink(port=port) as sink:
        configure(relay, sink.address, route={"name": "new"})
        await relay.start()
        await relay.until_logged("queue_orphans")
        config = ("-C", str(relay.config_file))
        status, text = await relay.output(
            "queue", "reroute", "--route", "old", "--onto", "newer", "--yes", *config
        )
        assert (status, text) == (1, "relayproxy: there is no route 'newer'\n")
        status, text = await relay.output(
            "queue", "reroute", "--route", "old", "--onto", "new", "--yes", *config
        )
        assert (status, text) == (0, "rerouted: 1\n")
        await sink.until_messages(1)
        await until_empty(relay)


async def test_a_reload_goes_on_with_the_queue(relay: Relay):
    port = free_port()
    configure(relay, f"127.0.0.1:{port}", route={"queue": {"retry": ["1h"], "expire": "2h"}})
    await relay.start()
    assert (await send(relay)).code == 250
    await wait_for(lambda: [row[1] for row in parts(relay)] == [1], "the first attempt's record")
    configure(relay, f"127.0.0.1:{port}")
    relay.reload()
    await relay.until_logged('"reloaded"')
    async with UpstreamSink(port=port) as sink:
        assert (await relay.output("queue", "retry", "--yes", "--all", "-C", str(relay.config_file)))[0] == 0
        await sink.until_messages(1)
        await until_empty(relay)


async def test_a_notification_is_signed(relay: Relay):
    async with UpstreamSink(refusals={"b@example.net": b"550 5.1.1 no\r\n"}) as sink:
        keys = relay.folder / "keys"
        status, text = await relay.output("dkim", "keygen", "--folder", str(keys), "relay.test")
        assert status == 0, text
        configure(relay, sink.address, pipeline=[{"dkim_sign": {"keys": str(keys)}}])
        await relay.start()
        assert (await send(relay)).code == 250
        await sink.until_messages(1)
        report = sink.messages[0].content
        head = report.partition(b"\r\n\r\n")[0]
        assert head.count(b"DKIM-Signature: ") == 2
        assert b"d=relay.test;" in head
        await until_empty(relay)


@pytest.mark.servers
async def test_postfix_behind_the_queue(relay: Relay, start_postfix):
    postfix = await start_postfix()
    configure(relay, f"127.0.0.1:{postfix.port}")
    await relay.start()
    heard = await send(
        relay,
        recipients=("ana@example.net", "nobody@example.net", "bob@example.net"),
        sender="bob@example.net",
    )
    assert heard.code == 250
    # Each mailbox has the message, and bob the report about the one that is unknown there.
    await postfix.until_logged("status=sent", 3)
    (one,) = postfix.delivered("ana")
    assert one.endswith(MESSAGE)
    report = next(message for message in postfix.delivered("bob") if b"multipart/report" in message)
    assert b"Final-Recipient: rfc822; nobody@example.net\r\n" in report
    assert b"Status: 5.1.1\r\n" in report
    await until_empty(relay)


async def test_a_rule_holds_and_a_person_releases(relay: Relay):
    odd = MESSAGE.replace(b"Subject: queued", b"Subject: odd")
    async with UpstreamSink() as sink:
        rule = {"id": "odd", "match": {"subject": "odd"}, "then": {"hold": "looks odd"}}
        configure(relay, sink.address, pipeline=["rules"], rules=[rule])
        await relay.start()
        assert (await send(relay, content=odd)).code == 250
        config = ("-C", str(relay.config_file))
        _, text = await relay.output("quarantine", "list", "--json", *config)
        (held,) = json.loads(text)["messages"]
        assert "looks odd" in (await relay.output("quarantine", "show", held["id"], *config))[1]
        status, text = await relay.output("quarantine", "release", "--yes", held["id"], *config)
        assert status == 0, text
        await sink.until_messages(1)
        assert sink.messages[0].content.endswith(odd)
