"""Held messages: how long they are kept, and how they are listed for their recipients."""

import json
import time

import pytest
from click.testing import CliRunner
from tests.spool.making import NOW, deposit, recipients

from relayproxy.cli.queue import quarantine
from relayproxy.model.envelope import Envelope
from relayproxy.model.message import Message
from relayproxy.model.queued import Part, Standing
from relayproxy.spool.digest import digests
from relayproxy.spool.listing import Filter, Listing
from relayproxy.spool.sqlite import Floors, SqliteSpool
from relayproxy.testing.mail import make_address

DAY = 86_400.0


@pytest.fixture
async def store(tmp_path):
    store = SqliteSpool(tmp_path / "spool.db", floors=Floors(0, 0))
    store.start()
    yield store
    await store.close()


def held(number, *to, **changes):
    names = recipients(*to or ("b@example.net",))
    usual = {
        "envelope": Envelope(make_address("a@example.org"), names),
        "parts": (Part("up", names),),
        "standing": Standing.HELD,
        "reason": "odd",
    }
    return deposit(number, **(usual | changes))


async def test_what_is_held_too_long_goes_with_its_file_and_the_rest_stays(store, tmp_path):
    big = Message(b"Subject: x\r\n\r\n", b"x" * 100_000)
    await store.store(held(1, due=NOW - 31 * DAY, message=big))
    await store.store(held(2, "c@example.net", "d@example.net", due=NOW - 40 * DAY))
    await store.store(held(3, due=NOW - 29 * DAY))
    await store.store(deposit(4, due=NOW - 99 * DAY))
    assert [one.id for one in await store.expire_held(NOW - 30 * DAY, 1)] == ["id2"]
    (gone,) = await store.expire_held(NOW - 30 * DAY, 10)
    assert (gone.id, gone.route, gone.reason, gone.sender) == ("id1", "up", "odd", "a@example.org")
    assert gone.recipients == ("b@example.net",)
    assert await store.expire_held(NOW - 30 * DAY, 10) == []
    assert not [path for path in (tmp_path / "content").rglob("*") if path.is_file()]
    with Listing(tmp_path / "spool.db") as listing:
        assert [row.id for row in listing.rows(Filter(), 10)] == ["id3", "id4"]


async def test_what_an_administrator_holds_is_held_since_then(store, tmp_path):
    await store.store(deposit(1, due=NOW - 99 * DAY))
    before = time.time()
    with Listing(tmp_path / "spool.db") as listing:
        assert listing.hold(Filter(), "mine") == 1
    assert await store.expire_held(before, 10) == []
    assert len(await store.expire_held(time.time() + 1, 10)) == 1


async def test_the_digest_is_by_recipient_and_the_newest_first(store, tmp_path):
    hostile = Message(b"From: =?utf-8?q?Eve=1B[2J?= <eve@example.com>\r\nSubject: one\r\n\r\nbody")
    await store.store(held(1, "Bob@example.net", "ana@example.net", message=hostile, received_at=NOW))
    await store.store(held(2, "bob@example.net", received_at=NOW + 60))
    await store.store(deposit(3))
    with Listing(tmp_path / "spool.db") as listing:
        ana, bob = digests(listing.rows(Filter(standing=(Standing.HELD,)), 10), listing.head, 1)
    assert (ana.recipient, ana.count, bob.recipient, bob.count) == (
        "ana@example.net",
        1,
        "bob@example.net",
        2,
    )
    assert [mail.id for mail in bob.messages] == ["id2"]
    assert ana.messages[0].author == "Eve\ufffd[2J <eve@example.com>"
    assert (ana.messages[0].subject, ana.messages[0].reason) == ("one", "odd")


async def test_the_digest_as_a_command(store, tmp_path):
    big = Message(b"From: ana@example.org\r\nSubject: large\r\n\r\n", b"x" * 100_000)
    await store.store(held(1, message=big))
    config = tmp_path / "relayproxy.yaml"
    config.write_text(
        "version: 1\nhostname: relay.test\nlisteners: [{name: main, listen: '127.0.0.1:0'}]\n"
        "upstreams: {up: {address: '127.0.0.1:25'}}\nroutes: [{upstream: up, delivery: queue}]\n"
        f"spool: {{url: 'sqlite:///{tmp_path}/spool.db'}}\n"
    )
    said = CliRunner().invoke(quarantine, ["digest", "-C", str(config)])
    assert said.exit_code == 0, said.output
    assert "b@example.net: 1 held" in said.output
    assert "Subject: large" in said.output
    said = CliRunner().invoke(quarantine, ["digest", "--json", "--to", "nobody@*", "-C", str(config)])
    assert json.loads(said.output) == []
