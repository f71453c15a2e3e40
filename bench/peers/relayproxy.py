"""relayproxy as it is installed, pass-through, with JSON log and metrics on."""

import json
import sys
from pathlib import Path
from typing import Any

from bench.lab import Place, Running
from bench.peers.base import Relay, first_line
from bench.peers.certificate import write_certificate, write_key
from bench.programs import Program, free_port

_COMMAND = Path(sys.executable).parent / "relayproxy"
_SELECTOR = "bench"


class RelayProxy(Relay):
    """`sign`: dkim_sign is the pipeline; otherwise the pipeline is empty."""

    def __init__(
        self, name: str = "relayproxy", workers: int = 1, sign: bool = False, queue: bool = False
    ) -> None:
        self.name = name
        self._workers = workers
        self._sign = sign
        self._queue = queue
        self.about = f"{workers} worker{'s'[: workers > 1]}, JSON log, metrics on" + (
            ", pipeline: dkim_sign" if sign else ", delivery: queue" if queue else ""
        )

    def missing(self) -> str:
        return "" if _COMMAND.exists() else f"{_COMMAND} does not exist: make .venv/.installed"

    def version(self) -> str:
        return first_line(str(_COMMAND), "version")

    def start(self, place: Place) -> Running:
        folder = self.folder(place.lab)
        port = free_port()
        config = folder / "relayproxy.yaml"
        # JSON is YAML, and needs no library here
        config.write_text(json.dumps(self._config(place, folder, port), indent=2))
        program = Program([_COMMAND, "run", "-C", config], folder / "log")
        place.stack.callback(program.end)
        program.wait_for_banner(port)
        return Running(port, program.pid)

    def _config(self, place: Place, folder: Path, port: int) -> dict[str, Any]:
        listener: dict[str, Any] = {"name": "bench", "listen": f"127.0.0.1:{port}"}
        if place.cell.tls:
            cert, key = write_certificate(place.lab.folder)
            listener["tls"] = {"mode": "starttls", "cert": str(cert), "key": str(key)}
        return {
            "version": 1,
            "hostname": "relayproxy.bench.example",
            "workers": self._workers,
            "listeners": [listener],
            "relay": {"networks": ["127.0.0.0/8"]},
            "upstreams": {"sink": {"address": f"127.0.0.1:{place.lab.new_sink_port()}", "tls": "off"}},
            "routes": [{"upstream": "sink", "delivery": "queue" if self._queue else "pass-through"}],
            **({"spool": {"url": f"sqlite://{folder}/spool/spool.db"}} if self._queue else {}),
            # a load test is one client with many connections that last
            "limits": {
                "connections": 5000,
                "connections_per_client": 5000,
                "messages_per_connection": 1_000_000,
            },
            "log": {"format": "json"},
            "control": {"socket": str(folder / "control.sock")},
            "metrics": {"listen": f"127.0.0.1:{free_port()}"},
            "pipeline": [{"dkim_sign": {"keys": str(self._keys(folder))}}] if self._sign else [],
        }

    def _keys(self, folder: Path) -> Path:
        keys = folder / "keys"
        keys.mkdir()
        write_key(keys / f"bench.example.{_SELECTOR}.pem")
        return keys
