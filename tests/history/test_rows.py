"""Whatever strangers wrote, an event can be written."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.history.making import NO, NOON, OK, database, message, opening, recipient
from tests.servers.postgres import LOGIN, PASSWORD

from relayproxy.history.store import open_store
from relayproxy.model.event import NoteEvent, RefusalEvent, TlsEvent
from relayproxy.model.finding import Finding
from relayproxy.postgres import Server
from relayproxy.testing.mail import make_address, make_client

text = st.text(st.characters(), max_size=1200) | st.text(alphabet="a@.\x00\ud800é\n'\";", max_size=20)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.servers)])
def places(request, tmp_path_factory):
    """A store and the way to ask it, once for all examples."""
    if request.param == "sqlite":
        place = tmp_path_factory.mktemp("history") / "h.db"
    else:
        server = request.getfixturevalue("postgres_server")
        server.create_database("rows")
        place = Server((("127.0.0.1", server.port),), "rows", LOGIN, PASSWORD)
    store = opening(place)()
    asked = database(place)
    yield store, asked
    store.close()
    asked.close()


def refused(error):
    raise AssertionError(error)


@given(text, text, text, text, st.floats(allow_nan=False))
def test_any_text_is_kept(places, one, two, three, four, number):
    store, asked = places
    ((before,),) = asked.rows("SELECT COUNT(*) FROM event")
    client = make_client(helo=one, identity=two)
    found = Finding(one or "x", "hit", number, {two: three}, four, by="p")
    events = [
        message(
            1, sender=one, to=("b@example.net", two + "@" + three), replies=(OK, NO), message_id=four,
            reason=two, findings=(found, Finding("campaign", "hit", props={"name": three})),
        ),
        RefusalEvent(NOON, "c.1", "rcpt", client, NO, make_address(two), recipient(three)),
        TlsEvent(NOON, "up", two, three, 25, four, "success", reason=one),
        NoteEvent(NOON, "bounce", "m.1", details={two: three, four: number}),
    ]  # fmt: skip
    assert store.write(events, refused) == 4
    assert asked.rows("SELECT COUNT(*) FROM event") == [(before + 4,)]
    asked.rows("SELECT props ->> 'x' FROM finding")


def test_the_file_is_its_owners_and_groups(tmp_path):
    open_store(tmp_path / "h.db").close()
    assert (tmp_path / "h.db").stat().st_mode & 0o007 == 0
    connection = sqlite3.connect(tmp_path / "h.db")
    assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    connection.close()
