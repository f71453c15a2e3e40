"""The script that people write: stock aiosmtpd in front, stock aiosmtplib behind."""

import sys
from importlib.metadata import version

from bench.lab import Place, Running
from bench.peers.base import Relay
from bench.programs import ROOT, Program, free_port


class Script(Relay):
    name = "script"
    about = "stock aiosmtpd + aiosmtplib, a new upstream connection per message (bench/peers/stock_script.py)"

    def version(self) -> str:
        return f"aiosmtpd {version('aiosmtpd')}, aiosmtplib {version('aiosmtplib')}"

    def start(self, place: Place) -> Running:
        folder = self.folder(place.lab)
        port = free_port()
        script = ROOT / "bench" / "peers" / "stock_script.py"
        program = Program([sys.executable, script, str(port), str(place.lab.new_sink_port())], folder / "log")
        place.stack.callback(program.end)
        program.wait_for_banner(port)
        return Running(port, program.pid)
