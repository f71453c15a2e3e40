"""The shared state from the command line: what plugins have counted, on the stores that can be looked into."""

import asyncio
import json
import time

import pytest
from click.testing import CliRunner
from tests.servers.valkey import a_valkey

from relayproxy.api import Add, Bucket, Put, Take, shared_key
from relayproxy.cli.root import main
from relayproxy.config.load import load
from relayproxy.plugging import state_store

CONFIG = """\
version: 1
hostname: mx.example.org
listeners:
  - {{name: inbound, listen: "127.0.0.1:2525"}}
relay: {{domains: [example.org]}}
upstreams:
  store: {{address: "127.0.0.1:2526"}}
{state}
pipeline:
  - reputation: {{half_life: 1d, doubt: 10, scales: {{client: 4, domain: 2}}}}
"""


@pytest.fixture(params=["sqlite", "valkey"])
def configured(request, tmp_path):
    """A configuration with a store that has something in it, and a way to ask about it."""
    server = None
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/state.db"
    else:
        server = asyncio.run(a_valkey())
        url = server.url.replace("redis://", "valkey://")
    file = tmp_path / "relayproxy.yaml"
    file.write_text(CONFIG.format(state=f'state: {{url: "{url}"}}'))
    asyncio.run(_filled(file))

    def run(*words, code=0, given=None):
        result = CliRunner().invoke(main, [*words, "-C", str(file)], input=given, catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    yield run
    if server is not None:
        asyncio.run(server.end())
        server.remove()


async def _filled(file):
    loaded = load(file)
    assert loaded.config is not None
    assert loaded.config.state is not None
    store = state_store(loaded.config.state, time)
    counts = {
        ("client", "198.51.100.7", "bad"): 30,
        ("client", "198.51.100.7", "good"): 10,
        ("domain", "good.example", "good"): 90,
        ("domain", "x" * 200, "bad"): 1,
    }
    await store.do(
        *(Add(shared_key("reputation", *key), count, 8e5, 86_400) for key, count in counts.items()),
        Put(shared_key("greyknown", "198.51.100.7"), "", 3600),
        Take((Bucket(shared_key("rate", "a", "messages", "ana"), 0.1, 10.0),)),
    )
    await store.close()


def test_all_that_is_kept_is_listed_with_what_it_is(configured):
    found = json.loads(configured("state", "list", "--json").stdout)
    assert found["count"] == 6
    entries = {entry["key"]: entry for entry in found["entries"]}
    assert entries["greyknown|198.51.100.7"]["text"] == ""
    assert 3500 < entries["greyknown|198.51.100.7"]["ends_in"] <= 3600
    assert 0 < entries["rate|a|messages|ana"]["bucket_full_in"] <= 10
    assert entries["reputation|client|198.51.100.7|bad"]["count"] == 30
    assert "greyknown|198.51.100.7\n    text" in configured("state", "list", "grey").stdout


def test_the_worst_and_the_best_are_shown_with_the_score_that_they_would_get(configured):
    found = json.loads(configured("reputation", "list", "--json").stdout)["entries"]
    assert [(one["kind"], one["name"]) for one in found] == [
        ("client", "198.51.100.7"),
        ("domain", "good.example"),
    ]
    assert found[0]["standing"] == pytest.approx(20 / 50, abs=1e-3)
    assert found[0]["score"] == pytest.approx(4 * 20 / 50, abs=1e-2)
    assert found[1]["score"] == pytest.approx(-2 * 0.9, abs=1e-2)
    best = json.loads(configured("reputation", "list", "--json", "--best", "--limit", "1").stdout)
    assert (best["count"], best["entries"][0]["name"]) == (2, "good.example")
    shown = configured("reputation", "list", "--kind", "domain")
    assert "good.example" in shown.stdout
    assert "198.51" not in shown.stdout
    assert "1 counts are of names too long" in shown.stderr


def test_forgetting_counts_first_and_asks(configured):
    assert configured("reputation", "forget", "198.51.100.7", code=1, given="n\n").stderr.startswith(
        "2 found"
    )
    assert json.loads(configured("reputation", "forget", "198.51.100.7", "--yes", "--json").stdout) == {
        "forgotten": 2
    }
    assert "nothing is found" in configured("reputation", "forget", "198.51.100.7", code=1).stderr
    assert "forgot 1" in configured("state", "forget", "greyknown", "--yes").stdout
    assert json.loads(configured("state", "list", "--json").stdout)["count"] == 3


def test_a_proxy_without_a_store_says_where_its_state_is(tmp_path):
    file = tmp_path / "relayproxy.yaml"
    file.write_text(CONFIG.format(state=""))
    result = CliRunner().invoke(main, ["state", "list", "-C", str(file)])
    assert result.exit_code == 1
    assert "each worker keeps its own in memory" in result.stderr


def test_a_store_that_does_not_answer_is_named(tmp_path):
    file = tmp_path / "relayproxy.yaml"
    file.write_text(CONFIG.format(state="state: {url: 'valkey://127.0.0.1:1'}"))
    result = CliRunner().invoke(main, ["reputation", "list", "-C", str(file)])
    assert result.exit_code == 1
    assert "valkey://127.0.0.1:1: ConnectionError" in result.stderr
