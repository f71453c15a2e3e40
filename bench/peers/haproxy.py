"""The floor (bytes copied by haproxy in TCP mode) and the zero line (no relay at all)."""

from bench.lab import Place, Running
from bench.peers.base import Relay
from bench.programs import Program, find, first_line, free_port

_CONFIG = """\
global
    nbthread 1
    maxconn 5000
defaults
    mode tcp
    timeout connect 5s
    timeout client 300s
    timeout server 300s
listen bench
    bind 127.0.0.1:{port} backlog 4096
    server sink 127.0.0.1:{sink}
"""


class Haproxy(Relay):
    name = "haproxy"
    about = "TCP mode, one thread, no log: what copying the bytes costs"

    def missing(self) -> str:
        return "" if find("haproxy") else "haproxy is not installed (Debian: haproxy)"

    def version(self) -> str:
        return first_line(find("haproxy"), "-v")

    def start(self, place: Place) -> Running:
        folder = self.folder(place.lab)
        port = free_port()
        config = folder / "haproxy.cfg"
        config.write_text(_CONFIG.format(port=port, sink=place.lab.new_sink_port()))
        program = Program([find("haproxy"), "-db", "-f", config], folder / "log")
        place.stack.callback(program.end)
        program.wait_for_banner(port)
        return Running(port, program.pid)


class Direct(Relay):
    name = "direct"
    about = "no relay: the generator speaks to the sink"

    def start(self, place: Place) -> Running:
        return Running(place.lab.new_sink_port(), None)
