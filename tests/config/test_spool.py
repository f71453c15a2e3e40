"""What `check` says about a spool on a server, and which store is made of it."""

import importlib.util
from pathlib import Path

import pytest

from relayproxy.catalogue import Catalogue
from relayproxy.config.load import Loaded, load
from relayproxy.spool.postgres import PostgresSpool
from relayproxy.spool.postgres_connections import Server
from relayproxy.stores import owner_of, store_of

BASE = """\
version: 1
hostname: mx.example.org
listeners:
  - {name: main, listen: "127.0.0.1:2525"}
relay:
  domains: [example.org]
upstreams:
  store: {address: "127.0.0.1:2526"}
"""


def loaded(tmp_path: Path, more: str, *, files: bool = False, **environ: str) -> Loaded:
    (tmp_path / "relayproxy.yaml").write_text(BASE + more)
    return load(tmp_path / "relayproxy.yaml", environ=environ, plugins=Catalogue, files=files)


def codes(tmp_path: Path, more: str, *, files: bool = False) -> list[str]:
    return [problem.code for problem in loaded(tmp_path, more, files=files).problems]


@pytest.mark.parametrize("there", [True, False])
def test_a_server_needs_its_library(tmp_path, monkeypatch, there):
    found = importlib.util.find_spec("json") if there else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found if name == "psycopg" else None)
    assert codes(tmp_path, "spool: {url: 'postgresql://127.0.0.1/x'}\n") == ([] if there else ["RP212"])


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("postgresql://db", "RP212"),
        ("postgresql:///db", "RP212"),
        ("postgresql://db:1/x?sslmode=disable", "RP212"),
        ("postgresql://db:99999/x", "RP207"),
        ("postgresql://u@db/x", "RP120"),
        ("postgres://db/x", "RP212"),
    ],
)
def test_urls_that_are_refused(tmp_path, url, code):
    assert codes(tmp_path, f"spool: {{url: '{url}'}}\n") == [code]


def test_files_and_secrets_are_looked_for(tmp_path):
    server = "spool: {url: 'postgresql://db/x', tls: verify, ca: %s, password: {env: NOT_SET_ANYWHERE}}\n"
    assert codes(tmp_path, server % (tmp_path / "missing.pem"), files=True) == ["RP501", "RP121"]
    assert codes(tmp_path, "spool: {url: 'postgresql://db/x', ca: /x.pem}\n") == ["RP309"]


def test_the_store_that_is_made_of_it(tmp_path):
    text = (
        "spool: {url: 'postgresql://a.example:5433,[::1],%2Frun%2Fpostgresql:5434/re%20lay',"
        " login: proxy, password: {env: SECRET}, tls: required}\n"
    )
    config = loaded(tmp_path, text, SECRET="hunter2").config
    assert config is not None
    assert config.spool is not None
    store = store_of(config.spool, lambda: 0.0, lambda _: None)
    assert isinstance(store, PostgresSpool)
    server = store._connections._server
    hosts = (("a.example", 5433), ("::1", 5432), ("/run/postgresql", 5434))
    assert server == Server(hosts, "re lay", "proxy", "hunter2", "required")
    assert "hunter2" not in repr(server)
    assert "hunter2" not in repr(config)
    parameters = server.parameters("")
    assert parameters["host"] == "a.example,::1,/run/postgresql"
    assert parameters["sslmode"] == "require"
    assert owner_of(config.spool, 3).count(".") >= 2


@pytest.mark.parametrize(
    ("tls", "ca", "mode", "root"),
    [
        ("off", "", "disable", None),
        ("opportunistic", "", "prefer", None),
        ("verify", "", "verify-full", "system"),
        ("verify", "/ca.pem", "verify-full", "/ca.pem"),
    ],
)
def test_words_for_tls(tls, ca, mode, root):
    parameters = Server((("h", 1),), "d", tls=tls, ca=ca).parameters("")
    assert (parameters["sslmode"], parameters.get("sslrootcert")) == (mode, root)
    assert ("require_auth" in parameters) == (tls != "verify")
