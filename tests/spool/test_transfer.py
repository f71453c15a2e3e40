"""A queue that moves from one store to another, by way of an archive."""

import io
import json
import tarfile

import pytest
from click.testing import CliRunner
from tests.servers.postgres import PASSWORD
from tests.spool.making import NOW, deposit, recipients, stored_octets

from relayproxy.cli.queue import queue
from relayproxy.config.base import Context
from relayproxy.config.operations import Spool
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.message import Message
from relayproxy.model.queued import Part, Settlement, Standing
from relayproxy.spool.archive import ArchiveError, ArchiveReader, ArchiveWriter, Counts
from relayproxy.spool.listing import Filter
from relayproxy.spool.postgres import PostgresSpool
from relayproxy.spool.postgres_transfer import PostgresTransfer
from relayproxy.spool.sqlite import Floors, SqliteSpool
from relayproxy.spool.transfer import Exported, Imported, Transfer
from relayproxy.stores import listing_of, transfer_of
from relayproxy.testing.mail import make_address

ENVIRON = {"PASSWORD": PASSWORD}
LARGE = deposit(2, message=Message(b"Subject: large\r\n\r\n", b"x" * 700_000))


def same(route: str) -> str:
    return route


class Stores:
    """Two stores of one kind, and the ways to them that commands take."""

    def __init__(self, spools, urls, folder, settings):
        self.spools, self.urls, self.folder, self.settings = spools, urls, folder, settings

    def __getitem__(self, name):
        return self.spools[name]

    def _spool(self, name):
        given = {"url": self.urls[name], "min_free": 1, **self.settings}
        return Spool.model_validate(given, context=Context(environ=ENVIRON))

    def transfer(self, name):
        return transfer_of(self._spool(name))

    def listing(self, name):
        return listing_of(self._spool(name))


@pytest.fixture(params=["sqlite", "postgres"])
def new_server(request):
    """What makes databases on a server; None for files."""
    return request.getfixturevalue("new_database") if request.param == "postgres" else None


@pytest.fixture
async def stores(new_server, tmp_path):
    made, urls, settings = {}, {}, {}
    for name in ("old", "new"):
        if new_server is None:
            made[name] = SqliteSpool(tmp_path / name / "spool.db", floors=Floors(0, 0))
            urls[name] = f"sqlite:///{tmp_path}/{name}/spool.db"
        else:
            server = new_server()
            made[name] = PostgresSpool(server)
            urls[name] = f"postgresql://{server.hosts[0][0]}:{server.hosts[0][1]}/{server.database}"
            settings = {"login": server.login, "password": {"env": "PASSWORD"}, "tls": "off"}
        made[name].start()
        await made[name].count("up")
    yield Stores(made, urls, tmp_path, settings)
    for store in made.values():
        await store.close()


def taken_out(stores, *, move=False, name="old"):
    file = io.BytesIO()
    with stores.transfer(name) as transfer:
        done = transfer.take_out(ArchiveWriter(file, transfer.counts()), lambda: None, move=move)
    return file.getvalue(), done


def put_in(stores, octets, onto=same, name="new"):
    with stores.transfer(name) as transfer, ArchiveReader(io.BytesIO(octets)) as archive:
        return transfer.put_in(archive, onto)


def ids(stores, name):
    with stores.listing(name) as listing:
        return [row.id for row in listing.rows(Filter(), 100)]


async def test_everything_that_a_delivery_needs_comes_over(stores):
    near = (Recipient(make_address("b@example.net"), ("FAILURE",), "rfc822;b@example.net"),)
    far = recipients("c@example.com")
    given = deposit(
        1,
        envelope=Envelope(make_address("a@example.org"), near + far, "8BITMIME", envid="e+2B1"),
        parts=(Part("near", near), Part("far", far, "example.com")),
        vouched=True,
    )
    await stores["old"].store(given)
    await stores["old"].store(LARGE)
    await stores["old"].store(deposit(3, standing=Standing.HELD, reason="odd", raw=True))
    (lease,) = await stores["old"].claim("near", "w1", NOW + 60, 10)
    await stores["old"].settle(lease, Settlement((), ((0, "451 4.2.0 later"),), due=NOW + 5))
    octets, done = taken_out(stores)
    assert done == Exported(3, 0, 0)
    with ArchiveReader(io.BytesIO(octets)) as archive:
        assert archive.counts == Counts(
            3, 4, sum(len(stored_octets(one)) for one in (given, LARGE, deposit(3)))
        )
    assert put_in(stores, octets) == Imported(3, 0, 0)
    (lease,) = await stores["new"].claim("near", "w9", NOW + 60, 10)
    assert lease.attempts == 1
    (found,) = await stores["new"].load([lease])
    assert bytes(found.message) == stored_octets(given)
    assert found.envelope == given.envelope.to(near)
    assert (found.client, found.vouched, found.replies) == (given.client, True, ("451 4.2.0 later",))
    (lease,) = await stores["new"].claim("far", "w9", NOW + 60, 10)
    assert lease.destination == "example.com"
    (lease,) = await stores["new"].claim("up", "w9", NOW + 60, 10)
    (found,) = await stores["new"].load([lease])
    assert bytes(found.message) == stored_octets(LARGE)
    with stores.listing("new") as listing:
        (held,) = listing.rows(Filter(standing=(Standing.HELD,)), 10)
    assert (held.id, held.reason) == ("id3", "odd")


async def test_a_second_import_adds_nothing_even_after_the_delivery(stores):
    await stores["old"].store(deposit(1))
    octets, _ = taken_out(stores)
    assert put_in(stores, octets) == Imported(1, 0, 0)
    assert put_in(stores, octets) == Imported(0, 1, 0)
    (lease,) = await stores["new"].claim("up", "w9", NOW + 60, 10)
    await stores["new"].settle(lease, Settlement((0,)))
    assert put_in(stores, octets) == Imported(0, 1, 0)
    assert put_in(stores, octets, name="old") == Imported(0, 1, 0)


async def test_what_is_moved_is_here_or_there_and_what_is_in_delivery_stays(stores):
    for number in range(250):
        await stores["old"].store(deposit(number))
    (busy,) = await stores["old"].store(deposit(999, owner="w1", due=4e9))
    octets, done = taken_out(stores, move=True)
    assert done == Exported(250, 1, 250)
    assert ids(stores, "old") == ["id999"]
    assert put_in(stores, octets) == Imported(250, 0, 0)
    back, done = taken_out(stores, move=True, name="new")
    assert done.moved == 250
    assert put_in(stores, back, name="old") == Imported(250, 0, 0)
    again, _ = taken_out(stores, move=True)
    assert put_in(stores, again) == Imported(250, 0, 0)
    await stores["old"].settle(busy, Settlement((0,)))
    assert ids(stores, "old") == []


async def test_a_failed_move_leaves_everything_due(stores):
    await stores["old"].store(deposit(1))

    def full():
        raise OSError(28, "no space")

    with stores.transfer("old") as transfer, pytest.raises(OSError, match="no space"):
        transfer.take_out(ArchiveWriter(io.BytesIO(), transfer.counts()), full, move=True)
    assert [lease.route for lease in await stores["old"].claim("up", "w1", NOW + 60, 10)] == ["up"]


async def test_what_is_damaged_is_left_out_and_an_archive_that_was_cut_off_is_refused(stores):
    for number in range(3):
        await stores["old"].store(deposit(number, message=Message(b"Subject: n%d\r\n\r\n" % number)))
    octets, _ = taken_out(stores)
    with pytest.raises(ArchiveError):
        put_in(stores, octets[:4000])
    assert len(ids(stores, "new")) == 1
    with pytest.raises(ArchiveError):
        put_in(stores, b"no archive at all")
    spoilt = octets.replace(b"Subject: n2", b"Subject: n9")
    assert put_in(stores, spoilt) == Imported(1, 1, 1)
    assert put_in(stores, octets) == Imported(1, 2, 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept.pop("parts"),
        lambda kept: kept.update(size="1"),
        lambda kept: kept.update(meta="[]"),
        lambda kept: kept.update(meta="{}"),
        lambda kept: kept.update(recipients=[]),
        lambda kept: kept["parts"][0].update(standing="gone"),
        lambda kept: kept["parts"][0].update(due=None),
        lambda kept: kept.update(extra=1),
    ],
)
async def test_an_archive_whose_envelopes_were_tampered_with_is_refused(stores, change):
    await stores["old"].store(deposit(1))
    octets, _ = taken_out(stores)
    changed = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(octets)) as old, tarfile.open(fileobj=changed, mode="w") as new:
        for member in old.getmembers():
            data = old.extractfile(member).read()
            if member.name.endswith(".json") and member.name not in ("queue.json", "end.json"):
                kept = json.loads(data)
                change(kept)
                data = json.dumps(kept).encode()
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    with pytest.raises(ArchiveError):
        put_in(stores, changed.getvalue())
    assert ids(stores, "new") == []


async def test_both_as_commands(stores, tmp_path, monkeypatch):
    monkeypatch.setenv("PASSWORD", PASSWORD)
    await stores["old"].store(deposit(1))
    for name, route in (("old", "up"), ("new", "other")):
        (tmp_path / f"{name}.yaml").write_text(
            "version: 1\nhostname: relay.test\nlisteners: [{name: main, listen: '127.0.0.1:0'}]\n"
            f"upstreams: {{{route}: {{address: '127.0.0.1:25'}}}}\nroutes: [{{upstream: {route}, delivery: queue}}]\n"
            f"spool: {json.dumps({'url': stores.urls[name], 'min_free': 1, **stores.settings})}\n"
        )

    def run(*arguments, data=None):
        return CliRunner().invoke(queue, [str(one) for one in arguments], input=data)

    old, new, file = ("-C", tmp_path / "old.yaml"), ("-C", tmp_path / "new.yaml"), tmp_path / "q.tar"
    said = run("export", *old, file, data="n\n")
    assert (said.exit_code, file.exists()) == (1, False)
    assert "1 messages to 1 recipients" in said.stderr
    said = run("export", "--yes", *old, "-")
    assert said.exit_code == 0
    streamed = said.stdout_bytes
    said = run("export", "--move", *old, "-")
    assert said.exit_code == 2
    said = run("export", "--move", "--yes", "--json", *old, file)
    assert json.loads(said.stdout) == {"messages": 1, "left": 0, "moved": 1}
    assert file.stat().st_mode & 0o777 == 0o600
    assert run("export", "--yes", *old, file).exit_code == 1
    said = run("import", "--yes", *new, file)
    assert (said.exit_code, "no route 'up'" in said.stderr) == (1, True)
    said = run("import", "--yes", "--json", "--onto", "other", *new, file)
    assert json.loads(said.stdout) == {"added": 1, "known": 0, "damaged": 0}
    said = run("import", "--yes", "--onto", "other", *new, "-", data=streamed)
    assert "0 messages, 1 had come before" in said.stdout


async def test_from_a_file_to_a_server_and_back(tmp_path, new_database):
    server = new_database()
    file, shared = SqliteSpool(tmp_path / "spool.db", floors=Floors(0, 0)), PostgresSpool(server)
    file.start()
    small = deposit(1, message=Message(b"Subject: \xff\r\n\r\n", b"\x00\xfe" * 100))
    await file.store(small)
    await file.store(LARGE)
    await shared.count("up")
    ways = {"file": lambda: Transfer(tmp_path / "spool.db"), "server": lambda: PostgresTransfer(server)}
    for start, end in (("file", "server"), ("server", "file")):
        archive = io.BytesIO()
        with ways[start]() as transfer:
            done = transfer.take_out(ArchiveWriter(archive, transfer.counts()), lambda: None, move=True)
        assert done == Exported(2, 0, 2)
        archive.seek(0)
        with ways[end]() as transfer, ArchiveReader(archive) as read:
            assert transfer.put_in(read, same) == Imported(2, 0, 0)
    leases = await file.claim("up", "w1", NOW + 60, 10)
    found = {bytes(one.message) for one in await file.load(leases)}
    assert found == {stored_octets(small), stored_octets(LARGE)}
    await file.close()
    await shared.close()
