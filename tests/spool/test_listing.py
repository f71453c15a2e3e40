"""What an administrator may find and change, beside workers that go on."""

import json
import time

import pytest
from tests.spool.making import deposit, recipients

from relayproxy.model.envelope import Envelope
from relayproxy.model.message import Message
from relayproxy.model.queued import Part, Standing
from relayproxy.postgres import Server
from relayproxy.spool.listing import Filter, Listing
from relayproxy.spool.postgres import PostgresSpool
from relayproxy.spool.postgres_listing import PostgresListing
from relayproxy.spool.protocol import SpoolError
from relayproxy.spool.sqlite import Floors, SqliteSpool
from relayproxy.testing.mail import make_address


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path):
    """Where the store is: a file or a server."""
    if request.param == "sqlite":
        return tmp_path / "spool.db"
    return request.getfixturevalue("postgres_database")


@pytest.fixture
async def store(place):
    store = PostgresSpool(place) if isinstance(place, Server) else SqliteSpool(place, floors=Floors(0, 0))
    store.start()
    now = time.time()
    for number, (sender, to, route) in enumerate(
        (
            ("ana@example.org", "Bob@Example.net", "near"),
            ("ana@example.org", "carl@example.com", "far"),
            ("news@example.org", "bob@example.net", "near"),
        )
    ):
        found = recipients(to)
        await store.store(
            deposit(
                number,
                envelope=Envelope(make_address(sender), found),
                parts=(Part(route, found),),
                received_at=now - number * 3600,
                due=now + 600,
            )
        )
    await store.store(
        deposit(
            3, standing=Standing.HELD, reason="odd", message=Message(b"Subject: x\r\n\r\n", b"x" * 100_000)
        )
    )
    yield store
    await store.close()


@pytest.fixture
def listing(store, place):
    with PostgresListing(place) if isinstance(place, Server) else Listing(place) as listing:
        yield listing


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(), ["id0", "id1", "id2", "id3"]),
        (Filter(ids=("id1", "id9")), ["id1"]),
        (Filter(sender="ana@*"), ["id0", "id1"]),
        (Filter(recipient="*@EXAMPLE.net", route="near"), ["id0", "id2"]),
        (Filter(standing=(Standing.HELD,)), ["id3"]),
        (Filter(older=3000.0, route="near"), ["id2"]),
    ],
)
def test_filters(listing, wanted, found):
    rows = listing.rows(wanted, 10)
    assert [row.id for row in rows] == found
    assert listing.count(wanted) == len(found)
    assert len(listing.rows(wanted, 1)) == 1


async def test_hold_and_unhold(listing, store):
    assert listing.hold(Filter(route="near"), "") == 2
    assert listing.hold(Filter(), "x") == 1
    assert listing.unhold(Filter(ids=("id0",))) == 1
    (lease,) = await store.claim("near", "w", time.time() + 60, 10)
    assert [one.id for one in await store.load([lease])] == ["id0"]


async def test_what_is_in_delivery_is_left_alone(listing, store):
    listing.retry(Filter(ids=("id0",)))
    (lease,) = await store.claim("near", "w", time.time() + 60, 10)
    everything = Filter(ids=("id0",))
    assert (listing.hold(everything, ""), listing.fail(everything), listing.drop(everything)) == (0, 0, 0)
    await store.release([lease], time.time())
    assert listing.drop(everything) == 1


async def test_fail_marks_what_is_to_be_reported(listing, store):
    assert listing.fail(Filter(ids=("id0",))) == 1
    (lease,) = await store.claim("near", "w", time.time() + 60, 10)
    assert lease.given_up


async def test_reroute(listing, store):
    assert listing.reroute(Filter(route="near"), "far") == 2
    assert await store.due("near") is None
    assert await store.routes() == ["far"]
    assert len(await store.claim("far", "w", time.time() + 60, 10)) == 2


def test_large_contents(listing):
    row = listing.rows(Filter(ids=("id3",)), 1)[0]
    assert listing.content(row.message).endswith(b"Subject: x\r\n\r\n" + b"x" * 100_000)
    assert row.size == len(listing.content(row.message))
    assert listing.drop(Filter(ids=("id3",))) == 1
    with pytest.raises(SpoolError):
        listing.content(row.message)


def test_patterns_have_no_other_signs(listing):
    assert listing.count(Filter(sender="an_@*")) == 0
    assert listing.count(Filter(sender="%")) == 0
    assert listing.count(Filter(sender="an?@example.org")) == 2


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_drop_takes_the_files_along(listing, tmp_path):
    files = [file for file in (tmp_path / "content").rglob("*") if file.is_file()]
    assert len(files) == 1
    assert listing.content(listing.rows(Filter(ids=("id3",)), 1)[0].message) == files[0].read_bytes()
    assert listing.drop(Filter()) == 4
    assert not files[0].exists()
    assert listing.count(Filter()) == 0


def test_summary(listing):
    found = {(row["route"], row["standing"]): row["count"] for row in listing.summary()}
    assert found == {("far", "queued"): 1, ("near", "queued"): 2, ("up", "held"): 1}
    assert json.dumps(listing.summary())


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SpoolError):
        Listing(tmp_path / "nowhere.db")


def test_a_server_without_a_spool(postgres_database):
    with pytest.raises(SpoolError, match="no spool in the database"):
        PostgresListing(postgres_database)
    with pytest.raises(SpoolError, match="refused"):
        PostgresListing(Server((("127.0.0.1", 1),), "x"))
