"""What `check` says about plugins that remember, with and without a place for it."""

import importlib.util
from pathlib import Path

import pytest

from relayproxy.catalogue import Catalogue
from relayproxy.config.load import load

BASE = """\
version: 1
hostname: mx.example.org
listeners:
  - {name: main, listen: "127.0.0.1:2525"}
relay:
  domains: [example.org]
upstreams:
  store: {address: "127.0.0.1:2526"}
plugin_folders: [plugins]
"""
REMEMBERS = """\
from relayproxy.api import hook

uses_state = True


@hook
def startup(app):
    pass
"""


def codes(tmp_path: Path, more: str, *, files: bool = False) -> list[str]:
    (tmp_path / "plugins").mkdir(exist_ok=True)
    (tmp_path / "plugins/remembers.py").write_text(REMEMBERS)
    (tmp_path / "plugins/forgets.py").write_text(REMEMBERS.replace("True", "False"))
    (tmp_path / "relayproxy.yaml").write_text(BASE + more)
    loaded = load(tmp_path / "relayproxy.yaml", environ={}, plugins=Catalogue, files=files)
    return [problem.code for problem in loaded.problems]


def test_each_plugin_that_remembers_is_named_unless_there_is_a_place(tmp_path):
    assert codes(tmp_path, "pipeline: [remembers, forgets]\n") == ["RP310"]
    assert codes(tmp_path, "pipeline: [ratelimit, greylist, reputation, remembers]\n") == ["RP310"] * 4
    place = f"state: {{url: 'sqlite://{tmp_path}/state.db'}}\n"
    assert codes(tmp_path, f"pipeline: [remembers]\n{place}") == []
    assert codes(tmp_path, "pipeline: [forgets, score]\n") == []


@pytest.mark.parametrize("there", [True, False])
def test_a_server_needs_its_library(tmp_path, monkeypatch, there):
    found = importlib.util.find_spec("json") if there else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found if name == "redis" else None)
    assert codes(tmp_path, "state: {url: valkey://127.0.0.1}\n") == ([] if there else ["RP212"])


def test_a_password_is_named_and_never_written(tmp_path):
    server = "state: {url: valkey://127.0.0.1, password: %s}\n"
    assert codes(tmp_path, server % "hunter2") == ["RP120"]
    assert codes(tmp_path, server % "{env: NOT_SET_ANYWHERE}", files=True) == ["RP121"]


def test_the_folder_of_the_file_is_there(tmp_path):
    place = "state: {url: 'sqlite://%s/state.db'}\n"
    assert codes(tmp_path, place % tmp_path, files=True) == []
    assert codes(tmp_path, place % (tmp_path / "missing"), files=True) == ["RP501"]


def test_rules_remember_where_one_of_them_counts(tmp_path):
    rules = "pipeline: [rules]\nrules: [{id: a, then: {%s}}]\n"
    assert codes(tmp_path, rules % "log: true") == []
    counting = rules % "rate_limit: {key: '{sender}', rate: 5/m, count: recipients}"
    assert codes(tmp_path, counting) == ["RP310"]
    assert codes(tmp_path, f"{counting}state: {{url: 'sqlite://{tmp_path}/state.db'}}\n") == []


def test_a_ratchet_remembers(tmp_path):
    base = BASE.replace("upstreams:", "upstreams:\n  seen: {address: 'mx.example:25', tls_ratchet: warn}")
    (tmp_path / "relayproxy.yaml").write_text(base)
    loaded = load(tmp_path / "relayproxy.yaml", environ={}, plugins=Catalogue, files=False)
    assert "RP310" in [problem.code for problem in loaded.problems]
    (tmp_path / "relayproxy.yaml").write_text(f"{base}state: {{url: 'sqlite://{tmp_path}/state.db'}}\n")
    loaded = load(tmp_path / "relayproxy.yaml", environ={}, plugins=Catalogue, files=False)
    assert "RP310" not in [problem.code for problem in loaded.problems]
