"""An unbound of the test's own: a recursive server that knows the test's records and asks nobody else."""

import shutil

from tests.servers.process import Process, free_port, need, program, public_folder, wait_for

_CONFIG = """\
server:
  directory: "{folder}"
  chroot: ""
  username: ""
  pidfile: ""
  interface: 127.0.0.1@{port}
  access-control: 127.0.0.0/8 allow
  do-daemonize: no
  use-syslog: no
  logfile: ""
  do-not-query-localhost: yes
  module-config: "iterator"
  private-domain: "test."
{zones}
remote-control:
  control-enable: no
"""


class ZoneServer(Process):
    """`records` are zone file lines; every name below `zones` that has none does not exist."""

    def __init__(
        self, *records: str, zones: tuple[str, ...] = ("example.net", "example.com", "test")
    ) -> None:
        need("unbound", root=False)
        self.folder = public_folder("zones")
        super().__init__("unbound", self.folder / "log")
        self.port = free_port()
        lines = [f'  local-zone: "{zone}." static' for zone in zones]
        lines += [f"  local-data: '{record}'" for record in records]
        (self.folder / "unbound.conf").write_text(
            _CONFIG.format(folder=self.folder, port=self.port, zones="\n".join(lines))
        )

    async def start(self) -> None:
        self.spawn(program("unbound"), "-d", "-c", str(self.folder / "unbound.conf"), cwd=self.folder)
        await wait_for(lambda: "start of service" in self.log or self.check_alive(), "unbound")

    async def stop(self) -> None:
        """End it and remove its folder."""
        try:
            if self.popen is not None:
                await self.end()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
