"""relayproxy with what keeps spam out and shared state in SQLite: is a worker ever stopped by another's lock?"""

import asyncio
import time
from pathlib import Path
from typing import Any

from bench.lab import Place, Running, Sample
from bench.lists import ZONES
from bench.peers.relayproxy import RelayProxy
from bench.programs import Helper
from relayproxy.api import shared_key
from relayproxy.state.sqlite import SqliteState

_TROUBLE = ("state_unavailable", "plugin_fault", "locked")
_PLENTY = "100000000/1s"


class Spam(RelayProxy):
    """The pipeline dnsbl (answers cached), ratelimit, score and greylist.

    Nobody is over a limit, and sender and recipient are known to the greylist: each message passes all of it, and
    writes to the state each time.
    """

    def __init__(self, name: str = "relayproxy-spam", workers: int = 4) -> None:
        super().__init__(name, workers)
        self.about = (
            f"{workers} workers, JSON log, metrics on, pipeline: dnsbl, ratelimit, score, greylist; SQLite"
        )

    def _config(self, place: Place, folder: Path, port: int) -> dict[str, Any]:
        names = Helper("bench.lists", folder / "lists.log")
        place.stack.callback(names.end)
        state = folder / "state.db"
        asyncio.run(_introduce(state))
        lists = [{"zone": zone, "of": ["helo", "domain"], "weight": 1.0} for zone in ZONES]
        limits = [
            {"per": "client", "rate": _PLENTY},
            {"per": "sender", "rate": _PLENTY},
            {"per": "recipient_domain", "rate": _PLENTY},
            {"per": "client", "rate": _PLENTY, "count": "messages"},
        ]
        return {
            **super()._config(place, folder, port),
            # the load comes from loopback: it must be a stranger's, or nothing is asked about it
            "relay": {"domains": ["bench.example"]},
            "dns": {"servers": [f"127.0.0.1:{names.hear()}"]},
            "state": {"url": f"sqlite://{state}"},
            "pipeline": [
                {"dnsbl": {"lists": lists}},
                {"ratelimit": {"limits": limits}},
                {"score": {"thresholds": {"greylist": 2.0}}},
                {"greylist": {"passes": 0}},
            ],
        }

    def measure(self, place: Place, running: Running) -> Sample:
        log = place.lab.folder / self.name / "log"
        before = log.stat().st_size
        sample = super().measure(place, running)
        with log.open(errors="replace") as lines:
            lines.seek(before)
            for line in lines:
                for word in _TROUBLE:
                    if word in line:
                        sample.errors[word] = sample.errors.get(word, 0) + 1
        return sample


async def _introduce(path: Path) -> None:
    """Let the greylist know the bench's sender, as if it had come back before."""
    state = SqliteState(path, time.time)
    key = shared_key("grey", "127.0.0.0/24", "sender@bench.example", "recipient@bench.example")
    await state.put(key, f"passed {time.time()!r}", ttl=86_400.0)
    await state.close()
