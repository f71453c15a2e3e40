"""What `check` says about the unsubscribe page and the list behind it: who reads its tokens, who keeps what they say, and its files."""

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
"""
READS = 'list_unsubscribe: {url: "https://x.example/{token}", secrets: [{env: KEY}]}'


def codes(tmp_path: Path, more: str, *, files: bool = False) -> list[str]:
    (tmp_path / "relayproxy.yaml").write_text(BASE + more)
    loaded = load(tmp_path / "relayproxy.yaml", environ={"KEY": "k" * 16}, plugins=Catalogue, files=files)
    return [problem.code for problem in loaded.problems]


@pytest.mark.parametrize(
    ("pipeline", "found"),
    [
        (f"[suppression, {READS}]", []),
        (f"[{READS}]", ["RP309"]),
        ("[suppression]", ["RP309"]),
        ("[]", ["RP309", "RP309"]),
    ],
)
def test_plugins_that_it_needs(tmp_path, pipeline, found):
    assert codes(tmp_path, f"pipeline: {pipeline}\nunsubscribe: {{listen: '127.0.0.1:8025'}}\n") == found


@pytest.mark.parametrize(
    "page",
    [
        "{}",
        "{listen: '127.0.0.1:8025', rate: 0}",
        "{listen: '127.0.0.1:8025', tls: {cert: x}}",
        "{listen: '127.0.0.1:8025', trusted_proxies: [10.0.0.1/8]}",
    ],
)
def test_what_it_may_not_be(tmp_path, page):
    assert codes(tmp_path, f"pipeline: [suppression, {READS}]\nunsubscribe: {page}\n") != []


def test_its_files_are_looked_at(tmp_path):
    page = "{listen: 'unix:/nowhere/x.sock', tls: {cert: a.pem, key: b.pem}}"
    found = codes(tmp_path, f"pipeline: [suppression, {READS}]\nunsubscribe: {page}\n", files=True)
    assert found.count("RP501") == 3


SHARED = "suppression: {url: 'postgresql://db.example/list'%s}\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (SHARED % "" + "pipeline: [suppression]\n", []),
        (SHARED % ", timeout: 1s, cache: 0s, login: x, tls: required", []),
        (SHARED % "" + "pipeline: [suppression: {file: x.db}]\n", ["RP309"]),
        (SHARED % ", ca: x.pem", ["RP309"]),
        ("suppression: {url: 'sqlite:///var/x.db', login: me}\n", ["RP309"]),
        ("suppression: {url: 'mysql://db.example/list'}\n", ["RP212"]),
        ("suppression: {url: 'postgresql://me:secret@db.example/list'}\n", ["RP120"]),
    ],
)
def test_where_the_list_is(tmp_path, text, found):
    assert codes(tmp_path, text) == found


@pytest.mark.parametrize(
    ("looking", "writing", "found"),
    [
        ("{tenant: login}", "tenant: login", []),
        ("{tenant: login}", "tenant: none", []),
        ("{}", "tenant: login, scope: global", []),
        ("{}", "tenant: login", ["RP309"]),
        ("{tenant: sender-domain}", "tenant: login", ["RP309"]),
        ("{tenant: login}", "tenant: login, campaign: envid, scope: tenant", []),
        ("{tenant: login}", "tenant: login, campaign: envid, scope: campaign", ["RP309"]),
        ("{}", "tenant: login, campaign: envid, scope: campaign", ["RP309", "RP309"]),
    ],
)
def test_what_is_written_is_looked_for(tmp_path, looking, writing, found):
    page = READS.replace("{url", f"{{{writing}, url")
    assert codes(tmp_path, f"pipeline: [suppression: {looking}, {page}]\n") == found
