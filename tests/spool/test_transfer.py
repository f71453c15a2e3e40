"""A queue that moves from one store to another, by way of an archive."""

import io
import json
import tarfile

import pytest
from click.testing import CliRunner
from tests.spool.making import NOW, deposit, recipients, stored_octets

from relayproxy.cli.queue import queue
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.message import Message
from relayproxy.model.queued import Part, Settlement, Standing
from relayproxy.spool.archive import ArchiveError, ArchiveReader, ArchiveWriter, Counts
from relayproxy.spool.listing import Filter, Listing
from relayproxy.spool.sqlite import Floors, SqliteSpool
from relayproxy.spool.transfer import Exported, Imported, Transfer
from relayproxy.testing.mail import make_address

LARGE = deposit(2, message=Message(b"Subject: large\r\n\r\n", b"x" * 100_000))


def same(route: str) -> str:
    return route


@pytest.fixture
async def stores(tmp_path):
    made = {}
    for name in ("old", "new"):
        made[name] = SqliteSpool(tmp_path / name / "spool.db", floors=Floors(0, 0))
        made[name].start()
    yield made
    for store in made.values():
        await store.close()


def taken_out(tmp_path, *, move=False, name="old"):
    file = io.BytesIO()
    with Transfer(tmp_path / name / "spool.db") as transfer:
        done = transfer.take_out(ArchiveWriter(file, transfer.counts()), lambda: None, move=move)
    return file.getvalue(), done


def put_in(tmp_path, octets, onto=same, name="new"):
    with Transfer(tmp_path / name / "spool.db") as transfer, ArchiveReader(io.BytesIO(octets)) as archive:
        return transfer.put_in(archive, onto)


def ids(tmp_path, name):
    with Listing(tmp_path / name / "spool.db") as listing:
        return [row.id for row in listing.rows(Filter(), 100)]


async def test_everything_that_a_delivery_needs_comes_over(stores, tmp_path):
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
    octets, done = taken_out(tmp_path)
    assert done == Exported(3, 0, 0)
    with ArchiveReader(io.BytesIO(octets)) as archive:
        assert archive.counts == Counts(
            3, 4, sum(len(stored_octets(one)) for one in (given, LARGE, deposit(3)))
        )
    assert put_in(tmp_path, octets) == Imported(3, 0, 0)
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
    with Listing(tmp_path / "new" / "spool.db") as listing:
        (held,) = listing.rows(Filter(standing=(Standing.HELD,)), 10)
    assert (held.id, held.reason) == ("id3", "odd")


async def test_a_second_import_adds_nothing_even_after_the_delivery(stores, tmp_path):
    await stores["old"].store(deposit(1))
    octets, _ = taken_out(tmp_path)
    assert put_in(tmp_path, octets) == Imported(1, 0, 0)
    assert put_in(tmp_path, octets) == Imported(0, 1, 0)
    (lease,) = await stores["new"].claim("up", "w9", NOW + 60, 10)
    await stores["new"].settle(lease, Settlement((0,)))
    assert put_in(tmp_path, octets) == Imported(0, 1, 0)
    assert put_in(tmp_path, octets, name="old") == Imported(0, 1, 0)


async def test_what_is_moved_is_here_or_there_and_what_is_in_delivery_stays(stores, tmp_path):
    for number in range(250):
        await stores["old"].store(deposit(number))
    (busy,) = await stores["old"].store(deposit(999, owner="w1", due=4e9))
    octets, done = taken_out(tmp_path, move=True)
    assert done == Exported(250, 1, 250)
    assert ids(tmp_path, "old") == ["id999"]
    assert put_in(tmp_path, octets) == Imported(250, 0, 0)
    back, done = taken_out(tmp_path, move=True, name="new")
    assert done.moved == 250
    assert put_in(tmp_path, back, name="old") == Imported(250, 0, 0)
    again, _ = taken_out(tmp_path, move=True)
    assert put_in(tmp_path, again) == Imported(250, 0, 0)
    await stores["old"].settle(busy, Settlement((0,)))
    assert ids(tmp_path, "old") == []


async def test_a_failed_move_leaves_everything_due(stores, tmp_path):
    await stores["old"].store(deposit(1))

    def full():
        raise OSError(28, "no space")

    with Transfer(tmp_path / "old" / "spool.db") as transfer, pytest.raises(OSError, match="no space"):
        transfer.take_out(ArchiveWriter(io.BytesIO(), transfer.counts()), full, move=True)
    assert [lease.route for lease in await stores["old"].claim("up", "w1", NOW + 60, 10)] == ["up"]


async def test_what_is_damaged_is_left_out_and_an_archive_that_was_cut_off_is_refused(stores, tmp_path):
    for number in range(3):
        await stores["old"].store(deposit(number, message=Message(b"Subject: n%d\r\n\r\n" % number)))
    octets, _ = taken_out(tmp_path)
    with pytest.raises(ArchiveError):
        put_in(tmp_path, octets[:4000])
    assert len(ids(tmp_path, "new")) == 1
    with pytest.raises(ArchiveError):
        put_in(tmp_path, b"no archive at all")
    spoilt = octets.replace(b"Subject: n2", b"Subject: n9")
    assert put_in(tmp_path, spoilt) == Imported(1, 1, 1)
    assert put_in(tmp_path, octets) == Imported(1, 2, 0)


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
async def test_an_archive_whose_envelopes_were_tampered_with_is_refused(stores, tmp_path, change):
    await stores["old"].store(deposit(1))
    octets, _ = taken_out(tmp_path)
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
        put_in(tmp_path, changed.getvalue())
    assert ids(tmp_path, "new") == []


async def test_both_as_commands(stores, tmp_path):
    await stores["old"].store(deposit(1))
    for name, route in (("old", "up"), ("new", "other")):
        (tmp_path / f"{name}.yaml").write_text(
            "version: 1\nhostname: relay.test\nlisteners: [{name: main, listen: '127.0.0.1:0'}]\n"
            f"upstreams: {{{route}: {{address: '127.0.0.1:25'}}}}\nroutes: [{{upstream: {route}, delivery: queue}}]\n"
            f"spool: {{url: 'sqlite:///{tmp_path}/{name}/spool.db', min_free: 1}}\n"
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
