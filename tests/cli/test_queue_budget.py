"""`relayproxy queue budget` before the first day, on it, and after the last."""

import json
from datetime import UTC, datetime, timedelta

from click.testing import CliRunner
from tests.servers.relay import as_yaml, configuration

from relayproxy.cli.root import main


def test_each_warm_up_says_where_it_stands(tmp_path):
    today = datetime.now(UTC).date()
    upstreams = {
        name: {
            "address": "127.0.0.1:2526",
            "warmup": {"start": str(today + timedelta(days)), "days": [50, 100]},
        }
        for name, days in (("early", 30), ("now", 0), ("done", -30))
    }
    file = tmp_path / "relayproxy.yaml"
    routes = [{"upstream": name, "senders": [f"{name}.example"]} for name in upstreams]
    changes = {"upstreams": upstreams, "routes": routes, "state": {"url": f"sqlite:///{tmp_path}/state.db"}}
    file.write_text(as_yaml(configuration(2525, "", tmp_path, **changes)))
    printed = CliRunner().invoke(main, ["queue", "budget", "-C", str(file)]).stdout
    assert [" ".join(line.split()) for line in printed.splitlines()] == [
        "upstream early other not yet 0 of 0",
        "upstream now other day 1 0 of 50",
        "upstream done other ended 0 of no limit",
    ]
    printed = CliRunner().invoke(main, ["queue", "budget", "-C", str(file), "--json"]).stdout
    assert [row["budget"] for row in json.loads(printed)] == [0, 50, None]
