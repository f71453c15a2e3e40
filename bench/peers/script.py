"""The scripts that people write: stock aiosmtpd in front, stock aiosmtplib behind; with authheaders to check mail."""

import subprocess
import sys
from importlib.metadata import version

from bench.lab import Place, Running
from bench.names import missing_names
from bench.peers.base import Relay
from bench.peers.group import start_group
from bench.programs import ROOT, Program, first_line, free_port

_HOME = ROOT / "bench" / ".cache" / "authheaders"
_PYTHON = _HOME / "bin" / "python"
_PACKAGES = ("authheaders==0.16.3", "pyspf==2.0.14", "aiosmtpd", "aiosmtplib")


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


class ScriptChecks(Relay):
    name = "script-checks"
    about = "the script with authheaders: SPF, DKIM and DMARC (bench/peers/checking_script.py)"
    proof = ("spf=pass", "dkim=pass", "dmarc=pass")

    def missing(self) -> str:
        """Install it into an environment of its own at the first run."""
        if why := missing_names():
            return why
        if (_HOME / "installed").exists():
            return ""
        for argv in (
            [sys.executable, "-m", "venv", str(_HOME)],
            [str(_PYTHON), "-m", "pip", "install", "--quiet", *_PACKAGES],
        ):
            done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=180)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                return f"pip could not install it: {reason}"
        (_HOME / "installed").touch()
        return ""

    def version(self) -> str:
        code = "import importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in ('authheaders', 'dkimpy')))"
        return first_line(str(_PYTHON), "-c", code)

    def start(self, place: Place) -> Running:
        folder = self.folder(place.lab)
        port = free_port()
        script = ROOT / "bench" / "peers" / "checking_script.py"
        command = [_PYTHON, script, str(port), str(place.lab.new_sink_port())]
        program = start_group(place, folder, [command])
        program.wait_for_banner(port)
        return Running(port, program.pid)
