"""A Postfix of the test's own: its own configuration, queue, data folder and ports, loopback only.

Started through `master` in the foreground, never through the system's service. Needs root, because Postfix runs
its parts under the users that its Debian package made.
"""

import grp
import os
import pwd
import shutil
import subprocess
from pathlib import Path

from tests.servers.process import Process, free_port, need, program, public_folder

_QUEUES = (
    ("active", 0o700),
    ("bounce", 0o700),
    ("corrupt", 0o700),
    ("defer", 0o700),
    ("deferred", 0o700),
    ("flush", 0o700),
    ("hold", 0o700),
    ("incoming", 0o700),
    ("private", 0o700),
    ("saved", 0o700),
    ("trace", 0o700),
)

# name, type, private, unprivileged, chroot, wakeup, maxproc, command
_SERVICES = """
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp      unix - - n - - smtp
relay     unix - - n - - smtp
error     unix - - n - - error
retry     unix - - n - - error
discard   unix - - n - - discard
virtual   unix - n n - - virtual
lmtp      unix - - n - - lmtp
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""

_MAIN = {
    "compatibility_level": "3.6",
    "myhostname": "postfix.test",
    "mydomain": "test",
    "myorigin": "postfix.test",
    "mydestination": "",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "ipv4",
    "mynetworks": "127.0.0.0/8",
    "smtpd_relay_restrictions": "permit_mynetworks, reject",
    # Bytes stay as they are: without this, loopback clients get missing header fields added.
    "local_header_rewrite_clients": "",
    "virtual_mailbox_domains": "example.net",
    "virtual_alias_maps": "",
    "local_transport": "error:no local mail",
    "alias_maps": "",
    "alias_database": "",
    "message_size_limit": "104857600",
    "mailbox_size_limit": "0",
    "virtual_mailbox_limit": "0",
    "smtputf8_enable": "yes",
    "smtputf8_autodetect_classes": "all",
    "smtp_dns_support_level": "disabled",
    "smtp_host_lookup": "native",
    "smtpd_client_connection_rate_limit": "0",
    "smtpd_client_connection_count_limit": "0",
    "smtpd_peername_lookup": "no",
    "disable_vrfy_command": "yes",
    "biff": "no",
    "maillog_file_prefixes": "/tmp",
    "maximal_backoff_time": "300s",
    "in_flow_delay": "0",
}


class Postfix(Process):
    """One instance. `port` is its smtpd; mail to users of example.net ends in `maildir(user)`.

    `settings` go into main.cf; `users` are the mailboxes of example.net; `services` maps further smtpd ports'
    names to their master.cf options, and `port_of(name)` tells the port.
    """

    def __init__(
        self,
        *,
        users: tuple[str, ...] = ("ana", "bob"),
        settings: dict[str, str] | None = None,
        smtpd_options: dict[str, str] | None = None,
        services: dict[str, dict[str, str]] | None = None,
    ) -> None:
        need("postfix", "postconf")
        self.folder = public_folder("postfix")
        super().__init__("Postfix", self.folder / "log")
        self._ports = {name: free_port() for name in ("main", *(services or {}))}
        self._mail = self.folder / "mail"
        self._configure(users, settings or {}, {"main": smtpd_options or {}, **(services or {})})

    @property
    def port(self) -> int:
        return self._ports["main"]

    def port_of(self, service: str) -> int:
        return self._ports[service]

    def maildir(self, user: str) -> Path:
        return self._mail / user

    def _configure(
        self, users: tuple[str, ...], settings: dict[str, str], services: dict[str, dict[str, str]]
    ) -> None:
        owner = pwd.getpwnam("postfix")
        queue, data, config = (self.folder / name for name in ("queue", "data", "etc"))
        for folder in (queue, data, config, self._mail, queue / "pid"):
            folder.mkdir()
        for name, mode in _QUEUES:
            (queue / name).mkdir(mode=mode)
            os.chown(queue / name, owner.pw_uid, -1)
        for name, mode in (("public", 0o710), ("maildrop", 0o1730)):
            (queue / name).mkdir()
            os.chown(queue / name, owner.pw_uid, grp.getgrnam("postdrop").gr_gid)
            (queue / name).chmod(mode)
        os.chown(data, owner.pw_uid, -1)
        nobody = pwd.getpwnam("nobody")
        os.chown(self._mail, nobody.pw_uid, nobody.pw_gid)
        (config / "mailboxes").write_text("".join(f"{user}@example.net {user}/\n" for user in users))
        main = {
            **_MAIN,
            "queue_directory": str(queue),
            "data_directory": str(data),
            "daemon_directory": _default("daemon_directory"),
            "command_directory": _default("command_directory"),
            "maillog_file": str(self.log_file),
            "virtual_mailbox_base": str(self._mail),
            "virtual_mailbox_maps": f"texthash:{config}/mailboxes",
            "virtual_uid_maps": f"static:{nobody.pw_uid}",
            "virtual_gid_maps": f"static:{nobody.pw_gid}",
            "virtual_minimum_uid": "1",
            **settings,
        }
        (config / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in main.items()))
        listeners = "".join(
            f"127.0.0.1:{self._ports[name]} inet n - n - - smtpd\n"
            + "".join(f"  -o {{ {key} = {value} }}\n" for key, value in options.items())
            for name, options in services.items()
        )
        (config / "master.cf").write_text(listeners + _SERVICES)
        for file in config.iterdir():
            os.utime(file, (0, 0))  # Postfix lets a file settle for two seconds before it reads it

    async def start(self) -> None:
        config = self.folder / "etc"
        master = Path(_default("daemon_directory")) / "master"
        self.spawn(
            str(master), "-c", str(config), "-d", env={"MAIL_CONFIG": str(config)}, cwd=self.folder / "queue"
        )
        await self.until_listening(*self._ports.values())

    async def stop(self) -> None:
        """End it and remove its folder."""
        try:
            if self.popen is not None:
                await self.end()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def delivered(self, user: str) -> list[bytes]:
        """The messages in a user's mailbox, in the order of their coming, line ends as CRLF."""
        files = sorted((self.maildir(user) / "new").glob("*"), key=lambda file: file.stat().st_mtime_ns)
        return [file.read_bytes().replace(b"\n", b"\r\n") for file in files]


def _default(parameter: str) -> str:
    command = [program("postconf"), "-dh", parameter]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
