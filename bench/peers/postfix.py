"""Postfix: as a before-queue proxy, whose smtpd hands every message to the sink over smtpd_proxy_filter, or with a queue.

An instance of its own with its own configuration, queue and data; no service that this path does not use.
"""

import grp
import os
import pwd
import shutil
import subprocess
from pathlib import Path

from bench.certificate import write_certificate
from bench.lab import Place, Running
from bench.peers.base import Relay
from bench.programs import BenchError, Program, find, first_line, free_port

_MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file_prefixes = {folder}
maillog_file = {folder}/maillog
daemon_directory = {daemons}
command_directory = {commands}
myhostname = postfix.bench.example
mydomain = bench.example
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
disable_dns_lookups = yes
smtpd_peername_lookup = no
message_size_limit = 104857600
mailbox_size_limit = 0
"""
_TLS = """\
smtpd_tls_security_level = may
smtpd_tls_cert_file = {cert}
smtpd_tls_key_file = {key}
"""
_MASTER = """\
127.0.0.1:{port} inet n - n - 200 smtpd
{option}rewrite unix - - n - - trivial-rewrite
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""


_QUEUE = """\
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
scache unix - - n - 1 scache
"""


def missing_postfix() -> str:
    """Why no Postfix can run here, or ""."""
    if not find("postfix"):
        return "postfix is not installed (Debian: postfix)"
    if os.geteuid() != 0:
        return "Postfix's master needs root"
    try:
        pwd.getpwnam("postfix")
        grp.getgrnam("postdrop")
    except KeyError:
        return "the accounts postfix and postdrop are missing"
    return ""


class Instance:
    """The files of one Postfix in `folder`; `command` runs it on `port`.

    With `queue` it sends from its queue, otherwise its smtpd is a proxy. `settings` are further lines of main.cf,
    `services` of master.cf. Raises BenchError.
    """

    def __init__(
        self, folder: Path, place: Place, *, queue: bool = False, settings: str = "", services: str = ""
    ) -> None:
        self.port = free_port()
        for name in ("conf", "queue", "data"):
            (folder / name).mkdir()
        shutil.chown(folder / "data", "postfix")
        if place.cell.tls:
            cert, key = write_certificate(place.lab.folder)
            settings += _TLS.format(cert=cert, key=key)
        sink = f"127.0.0.1:{place.lab.new_sink_port()}"
        option = f"    -o smtpd_proxy_filter={sink}\n"
        if queue:
            option, services = "", _QUEUE + services
            host, _, port = sink.partition(":")
            settings += f"relayhost = [{host}]:{port}\n"
        postconf = find("postconf")
        daemons = first_line(postconf, "-h", "daemon_directory")
        commands = first_line(postconf, "-h", "command_directory")
        main = _MAIN.format(folder=folder, daemons=daemons, commands=commands) + settings
        (folder / "conf" / "main.cf").write_text(main)
        (folder / "conf" / "master.cf").write_text(_MASTER.format(port=self.port, option=option) + services)
        # `check` makes the queue's folders; the master itself then is the root of the tree, without a shell above it
        done = subprocess.run(
            [find("postfix"), "-c", folder / "conf", "check"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BenchError(f"postfix check: {done.stderr.strip()}")
        self.command: list[str | Path] = [f"{daemons}/master", "-s", "-c", folder / "conf"]


class Postfix(Relay):
    """`queue`: it queues every message and delivers it to the sink; otherwise it is a before-queue proxy."""

    def __init__(self, name: str = "postfix", queue: bool = False) -> None:
        self.name = name
        self._queue = queue
        what = "its own queue, relayhost" if queue else "before-queue proxy (smtpd_proxy_filter)"
        self.about = f"{what}, defaults otherwise, its own log file"

    def missing(self) -> str:
        return missing_postfix()

    def version(self) -> str:
        return "Postfix " + first_line(find("postconf"), "-dh", "mail_version")

    def start(self, place: Place) -> Running:
        folder = self.folder(place.lab)
        instance = Instance(
            folder, place, queue=self._queue, settings="in_flow_delay = 0\n" if self._queue else ""
        )
        program = Program(instance.command, folder / "log")
        place.stack.callback(program.end)
        program.wait_for_banner(instance.port)
        return Running(instance.port, program.pid)
