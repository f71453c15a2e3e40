"""An Exim of the test's own: mail to ana and bob at any domain ends in a folder each, `nobody` is refused.

Debian has one mail server at a time, so its package is unpacked, not installed (.ci/run), and runs where /etc/passwd
has the user that it was built for: in a mount namespace of its own.
"""

import os
import shutil
from pathlib import Path

from tests.servers.process import Process, do_without, free_port, need, program, public_folder

PEERS = Path(os.environ.get("MAIL_PEERS", "/usr/local/lib/mail-peers"))
_BINARY = PEERS / "usr/sbin/exim4"
_USER = "Debian-exim"
_CONFIG = """\
exim_user = nobody
exim_group = nogroup
exim_path = {binary}
primary_hostname = exim.test
spool_directory = {folder}/spool
log_file_path = {folder}/%slog
pid_file_path = {folder}/pid
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
acl_smtp_rcpt = recipient
acl_smtp_data = content
host_lookup =
rfc1413_query_timeout = 0s
keep_environment =
never_users =
deliver_drop_privilege
message_size_limit = 100M
begin acl
recipient:
  deny local_parts = nobody
       message = no such user here
  accept
content:
  accept
begin routers
{routers}
begin transports
folder:
  driver = appendfile
  user = nobody
  directory = {folder}/mail/$local_part_data
  maildir_format
  create_directory
  use_crlf
  delivery_date_add = false
  envelope_to_add = false
  return_path_add = false
  message_prefix =
  message_suffix =
  maildir_tag =
relay:
  driver = smtp
  port = {upstream}
  allow_localhost
  hosts_try_fastopen =
  hosts_avoid_tls = *
"""
_TO_FOLDERS = "all:\n  driver = accept\n  local_parts = ana : bob\n  transport = folder\n"
_ONWARD = 'all:\n  driver = manualroute\n  route_list = "* 127.0.0.1"\n  self = send\n  transport = relay\n'


class Exim(Process):
    """One instance on `port`; with `upstream` it sends all that it gets to that port of this host."""

    def __init__(self, upstream: int = 0) -> None:
        need("unshare")
        if not _BINARY.exists():
            do_without(f"{_BINARY} is not there (see .ci/run)")
        self.folder = public_folder("exim")
        super().__init__("Exim", self.folder / "output")
        self.port = free_port()
        for name in ("spool", "mail"):
            (self.folder / name).mkdir()
            shutil.chown(self.folder / name, "nobody", "nogroup")
        self._config = self.folder / "exim.conf"
        self._config.write_text(
            _CONFIG.format(
                folder=self.folder,
                binary=_BINARY,
                port=self.port,
                upstream=upstream or 25,
                routers=_ONWARD if upstream else _TO_FOLDERS,
            )
        )
        users = Path("/etc/passwd").read_text()
        (self.folder / "passwd").write_text(f"{users}{_USER}:x:65533:65534::/nonexistent:/bin/false\n")
        groups = Path("/etc/group").read_text()
        (self.folder / "group").write_text(f"{groups}{_USER}:x:65533:\n")
        shutil.chown(self.folder, "nobody", "nogroup")

    async def start(self) -> None:
        binds = " && ".join(f"mount --bind {self.folder}/{name} /etc/{name}" for name in ("passwd", "group"))
        script = f"{binds} && exec {_BINARY} -C {self._config} -bdf -q1s"
        self.spawn(program("unshare"), "--mount", "sh", "-c", script, cwd=self.folder)
        await self.until_listening(self.port)

    def delivered(self, user: str) -> list[bytes]:
        """What has arrived for a user, octet for octet, the oldest first."""
        files = sorted((self.folder / "mail" / user / "new").glob("*"), key=lambda file: file.stat().st_mtime)
        return [file.read_bytes() for file in files]

    async def stop(self) -> None:
        """End it and remove its folder."""
        try:
            if self.popen is not None:
                await self.end()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
