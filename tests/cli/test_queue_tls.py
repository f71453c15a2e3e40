"""`relayproxy queue tls`: what was seen, and forgetting it."""

import asyncio
import json
import time

import pytest
from click.testing import CliRunner

from relayproxy.cli.root import main
from relayproxy.delivery.ratchet import key_of
from relayproxy.state.sqlite import SqliteState

CONFIG = """\
version: 1
hostname: mx.example.org
listeners:
  - {{name: inbound, listen: "127.0.0.1:2525"}}
relay: {{networks: [127.0.0.0/8]}}
upstreams:
  internet: {{mx: true, tls_ratchet: enforce}}
  store: {{address: "store.example:2526", tls_ratchet: warn}}
routes: [{{upstream: internet, delivery: queue}}, {{upstream: store}}]
spool: {{url: "sqlite://{folder}/spool.db"}}
{state}
"""


@pytest.fixture
def run(tmp_path):
    def run(*words, code=0, state=True):
        file = tmp_path / "relayproxy.yaml"
        line = f'state: {{url: "sqlite://{tmp_path}/state.db"}}' if state else ""
        file.write_text(CONFIG.format(folder=tmp_path, state=line))
        arguments = ["queue", "tls", "-C", str(file), *words]
        result = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result.output

    return run


def note(path, host, port, level):
    async def noted():
        state = SqliteState(path, time.time)
        await state.put(key_of(host, port), level, ttl=3600)
        await state.close()

    asyncio.run(noted())


def test_shown_and_forgotten(run, tmp_path):
    note(tmp_path / "state.db", "mx.example.net", 25, "VERIFIED")
    note(tmp_path / "state.db", "store.example", 2526, "ENCRYPTED")
    rows = json.loads(run("MX.example.net.", "store.example", "other.example", "--json"))
    assert [(row["host"], row["port"], row["seen"]) for row in rows] == [
        ("mx.example.net", 25, "TLS with a certificate that is good for its name"),
        ("store.example", 2526, "TLS"),
        ("other.example", 25, ""),
    ]
    assert "forgotten now" in run("mx.example.net", "--forget")
    assert run("mx.example.net") == "mx.example.net:25  nothing is remembered\n"
    assert "TLS" in run("store.example")


def test_without_a_state_there_is_nothing_to_look_at(run):
    assert "has no state" in run("mx.example.net", code=1, state=False)
