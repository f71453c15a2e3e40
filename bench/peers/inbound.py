"""relayproxy with all that a gateway for incoming mail has: the other side of Postfix with all of Rspamd."""

from pathlib import Path
from typing import Any

from bench.lab import Place
from bench.names import DOMAIN, missing_names
from bench.peers.relayproxy import RelayProxy
from bench.rules import make_rules

_RULES = 50
_LISTS = tuple(f"list{number}.example" for number in range(5))
_PIPELINE = (
    "iprev",
    "spf",
    "dkim_verify",
    "arc",
    "dmarc",
    "dnsbl",
    "mime_guard",
    "attachments",
    "rules",
    "score",
)


class Inbound(RelayProxy):
    """Everything that authenticates and judges by itself; five DNS lists whose answers are cached; rules that miss."""

    def __init__(self) -> None:
        super().__init__("relayproxy-inbound")
        self.about = (
            f"1 worker, JSON log, metrics on, pipeline: {', '.join(_PIPELINE)} ({_RULES} rules, SQLite state)"
        )
        self.proof = ("spf=pass", "dkim=pass", "dmarc=pass")

    def missing(self) -> str:
        return missing_names() or super().missing()

    def _config(self, place: Place, folder: Path, port: int) -> dict[str, Any]:
        lists = [{"zone": zone, "of": ["helo", "domain"], "weight": 2.0} for zone in _LISTS]
        steps: dict[str, Any] = {
            "dnsbl": {"lists": lists},
            "score": {"thresholds": {"mark": 6.0, "hold": 15.0}},
        }
        return {
            **super()._config(place, folder, port),
            "relay": {"domains": [DOMAIN]},
            "dns": {"servers": [f"{place.lab.names().address}:53"]},
            "state": {"url": f"sqlite://{folder}/state.db"},
            "rules": make_rules(_RULES),
            "pipeline": [{name: steps[name]} if name in steps else name for name in _PIPELINE],
        }
