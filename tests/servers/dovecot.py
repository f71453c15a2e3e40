"""A Dovecot of the test's own: LMTP in, IMAP and POP3 to read back, its own folders and ports, loopback only.

Written for the configuration language of Dovecot 2.3 (Debian 12). Needs root, because Dovecot runs its login
processes under users that its Debian package made.
"""

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from tests.servers.process import Process, do_without, free_port, need, program, public_folder

PASSWORD = "a-test-password"

_CONFIG = """
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
info_log_path = {folder}/log
instance_name = {name}
protocols = imap pop3 lmtp
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
mail_location = maildir:{folder}/mail/%n
mail_uid = nobody
mail_gid = nogroup
first_valid_uid = 1
hostname = dovecot.test
submission_host = 127.0.0.1:1
lmtp_save_to_detail_mailbox = no
mail_max_userip_connections = 100
pop3_uidl_format = %g
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%n {folder}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%n {folder}/users
}}
namespace inbox {{
  inbox = yes
}}
service imap-login {{
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp}
  }}
  unix_listener {folder}/lmtp.sock {{
    mode = 0666
  }}
}}
{extra}
"""


class Dovecot(Process):
    """One instance with the mailboxes `users` (of any domain), all with the password PASSWORD."""

    def __init__(self, *, users: tuple[str, ...] = ("ana", "bob"), extra: str = "") -> None:
        need("dovecot")
        version = subprocess.run(
            [program("dovecot"), "--version"], check=True, capture_output=True, text=True
        )
        if not version.stdout.startswith("2.3."):
            do_without(f"Dovecot 2.3 is wanted, not {version.stdout.strip()}")
        self.folder = public_folder("dovecot")
        super().__init__("Dovecot", self.folder / "log")
        self.lmtp_port, self.imap_port, self.pop3_port = free_port(), free_port(), free_port()
        owner = pwd.getpwnam("nobody")
        (self.folder / "mail").mkdir()
        os.chown(self.folder / "mail", owner.pw_uid, owner.pw_gid)
        (self.folder / "users").write_text(
            "".join(
                f"{user}:{PASSWORD}:{owner.pw_uid}:{owner.pw_gid}::{self.folder}/mail\n" for user in users
            )
        )
        self._config = self.folder / "dovecot.conf"
        self._config.write_text(
            _CONFIG.format(
                folder=self.folder,
                name=self.folder.name,
                lmtp=self.lmtp_port,
                imap=self.imap_port,
                pop3=self.pop3_port,
                extra=extra,
            )
        )

    @property
    def lmtp_socket(self) -> Path:
        return self.folder / "lmtp.sock"

    async def start(self) -> None:
        self.spawn(program("dovecot"), "-F", "-c", str(self._config))
        await self.until_listening(self.lmtp_port, self.imap_port, self.pop3_port)

    async def stop(self) -> None:
        """End it and remove its folder."""
        try:
            if self.popen is not None:
                await self.end()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
