"""Where the history is kept, and what is wrong with it."""

import pytest

from relayproxy.catalogue import Catalogue
from relayproxy.config.load import load
from relayproxy.history.database import StoreError
from relayproxy.history.postgres import PostgresStore
from relayproxy.history.store import SqliteDatabase
from relayproxy.stores import history_of, history_store_of

BASE = """\
version: 1
listeners: [{name: a, listen: 127.0.0.1:2525}]
upstreams: {u: {address: 127.0.0.1:2526}}
"""


def loaded(tmp_path, history, **environ):
    file = tmp_path / "relayproxy.yaml"
    file.write_text(f"{BASE}history: {history}\n")
    return load(file, environ=environ, plugins=Catalogue, files=False)


@pytest.mark.parametrize(
    ("history", "codes"),
    [
        ("{url: 'sqlite:///tmp/h.db', login: x}", ["RP309"]),
        ("{url: 'sqlite:///tmp/h.db', tls: required, ca: /x.pem}", ["RP309", "RP309"]),
        ("{url: 'postgresql://x:y@db/h'}", ["RP120"]),
        ("{url: 'postgresql://db'}", ["RP212"]),
        ("{url: 'postgresql://db/h', ca: /x.pem}", ["RP309"]),
        ("{url: 'postgresql://db/h', tls: sometimes}", ["RP202"]),
    ],
)
def test_mistakes(tmp_path, history, codes):
    found = [problem.code for problem in loaded(tmp_path, history).problems]
    assert sorted(found)[: len(codes)] == codes


def test_a_file_and_a_server(tmp_path):
    config = loaded(tmp_path, f"{{url: 'sqlite://{tmp_path}/h.db'}}").config
    history_of(config.history, writing=True).close()
    asked = history_of(config.history)
    assert isinstance(asked, SqliteDatabase)
    asked.close()
    text = "{url: 'postgresql://127.0.0.1:1/h', login: me, password: {env: SECRET}, tls: off}"
    config = loaded(tmp_path, text, SECRET="hunter2").config
    opening = history_store_of(config.history)
    assert opening.func is PostgresStore
    assert opening.args[0].password == "hunter2"
    assert "hunter2" not in repr(opening)
    with pytest.raises(StoreError) as failed:
        opening()
    assert "hunter2" not in str(failed.value)
