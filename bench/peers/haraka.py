"""Haraka with queue/smtp_forward, from npm into bench/.cache (once; skipped where it doesn't install)."""

import json
import shutil
import subprocess

from bench.lab import Place, Running
from bench.peers.base import Relay
from bench.programs import ROOT, Program, find, free_port

_VERSION = "3.3.4"
_HOME = ROOT / "bench" / ".cache" / "haraka"
_MODULE = _HOME / "node_modules" / "Haraka"
_FILES = {
    "me": "haraka.bench.example\n",
    "plugins": "no_ptr\nrcpt_to.in_host_list\nqueue/smtp_forward\n",
    "host_list": "bench.example\n",
    "smtp.ini": "listen=127.0.0.1:{port}\n",
    "smtp_forward.ini": "host=127.0.0.1\nport={sink}\n",
}
# It asks the system's resolver for every client's name; a plugin can only answer in its place
_NO_PTR = "exports.hook_lookup_rdns = (next) => next(OK, 'localhost')\n"


class Haraka(Relay):
    name = "haraka"
    about = "queue/smtp_forward, one process, its default log, no PTR look-up"

    def missing(self) -> str:
        if not (find("node") and find("npm")):
            return "node and npm are not installed"
        if _MODULE.is_dir():
            return ""
        _HOME.mkdir(parents=True, exist_ok=True)
        argv = [
            "npm",
            "install",
            "--prefix",
            str(_HOME),
            "--no-audit",
            "--no-fund",
            "--fetch-retries=1",
            f"Haraka@{_VERSION}",
        ]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=180)
        except subprocess.TimeoutExpired:
            return "npm did not install it within 180 s"
        if done.returncode or not _MODULE.is_dir():
            return (
                "npm could not install it: " + (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            )
        return ""

    def version(self) -> str:
        return f"Haraka {json.loads((_MODULE / 'package.json').read_text())['version']}"

    def start(self, place: Place) -> Running:
        folder = self.folder(place.lab)
        port, sink = free_port(), place.lab.new_sink_port()
        shutil.copytree(_MODULE / "config", folder / "config")
        (folder / "queue").mkdir()
        (folder / "plugins").mkdir()
        (folder / "plugins" / "no_ptr.js").write_text(_NO_PTR)
        for name, text in _FILES.items():
            (folder / "config" / name).write_text(text.format(port=port, sink=sink))
        program = Program([find("node"), _MODULE / "bin" / "haraka", "-c", folder], folder / "log")
        place.stack.callback(program.end)
        program.wait_for_banner(port)
        return Running(port, program.pid)
