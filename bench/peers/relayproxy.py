"""relayproxy as it is installed, pass-through, with JSON log and metrics on."""

import json
import sys
from pathlib import Path
from typing import Any

from bench.certificate import write_certificate, write_key
from bench.lab import Place, Running
from bench.names import DOMAIN, SELECTOR, missing_names
from bench.peers.base import Relay
from bench.programs import Program, first_line, free_port
from bench.rules import make_rules

COMMAND = Path(sys.executable).parent / "relayproxy"
_CHECKS = ("spf", "dkim_verify", "dmarc")


class RelayProxy(Relay):
    """`sign`: dkim_sign is the pipeline; `check`: it is spf, dkim_verify and dmarc; `rules`: so many rules are.

    Otherwise the pipeline is empty.
    """

    def __init__(
        self,
        name: str = "relayproxy",
        workers: int = 1,
        sign: bool = False,
        check: bool = False,
        rules: int = 0,
        queue: bool = False,
    ) -> None:
        self._rules = rules
        self.name = name
        self._workers = workers
        self._sign = sign
        self._check = check
        self._queue = queue
        pipeline = "dkim_sign" if sign else ", ".join(_CHECKS) if check else ""
        self.about = f"{workers} worker{'s'[: workers > 1]}, JSON log, metrics on" + (
            ", delivery: queue"
            if queue
            else f", pipeline: {pipeline or f'{rules} rules'}"
            if pipeline or rules
            else ""
        )
        self.proof = ("DKIM-Signature: v=1; a=rsa-sha256",) if sign else ()
        if check:
            self.proof = ("spf=pass", "dkim=pass", "dmarc=pass")

    def missing(self) -> str:
        if self._check and (why := missing_names()):
            return why
        return "" if COMMAND.exists() else f"{COMMAND} does not exist: make .venv/.installed"

    def version(self) -> str:
        return first_line(str(COMMAND), "version")

    def start(self, place: Place) -> Running:
        folder = self.folder(place.lab)
        port = free_port()
        config = folder / "relayproxy.yaml"
        # JSON is YAML, and needs no library here
        config.write_text(json.dumps(self._config(place, folder, port), indent=2))
        program = Program([COMMAND, "run", "-C", config], folder / "log")
        place.stack.callback(program.end)
        program.wait_for_banner(port)
        return Running(port, program.pid)

    def _config(self, place: Place, folder: Path, port: int) -> dict[str, Any]:
        listener: dict[str, Any] = {"name": "bench", "listen": f"127.0.0.1:{port}"}
        if place.cell.tls:
            cert, key = write_certificate(place.lab.folder)
            listener["tls"] = {"mode": "starttls", "cert": str(cert), "key": str(key)}
        config: dict[str, Any] = {
            "version": 1,
            "hostname": "relayproxy.bench.example",
            "workers": self._workers,
            "listeners": [listener],
            "relay": {"networks": ["127.0.0.0/8"]},
            "upstreams": {"sink": {"address": f"127.0.0.1:{place.lab.new_sink_port()}", "tls": "off"}},
            "routes": [{"upstream": "sink", "delivery": "queue" if self._queue else "pass-through"}],
            **({"spool": self._spool(place, folder)} if self._queue else {}),
            # a load test is one client with many connections that last
            "limits": {
                "connections": 5000,
                "connections_per_client": 5000,
                "messages_per_connection": 1_000_000,
            },
            "log": {"format": "json"},
            "control": {"socket": str(folder / "control.sock")},
            "metrics": {"listen": f"127.0.0.1:{free_port()}"},
            "pipeline": [{"dkim_sign": {"keys": str(self._keys(folder))}}]
            if self._sign
            else ["rules"]
            if self._rules
            else [],
            "rules": make_rules(self._rules),
        }
        if self._check:
            # The client is a stranger, whose mail is for a domain of ours.
            config["relay"] = {"domains": [DOMAIN]}
            config["dns"] = {"servers": [f"{place.lab.names().address}:53"]}
            config["pipeline"] = list(_CHECKS)
        return config

    def _spool(self, place: Place, folder: Path) -> dict[str, Any]:  # noqa: ARG002  (a variant starts a server there)
        return {"url": f"sqlite://{folder}/spool/spool.db"}

    def _keys(self, folder: Path) -> Path:
        keys = folder / "keys"
        keys.mkdir()
        write_key(keys / f"{DOMAIN}.{SELECTOR}.pem")
        return keys
