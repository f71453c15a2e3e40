"""An unbound of the test's own: a resolver over a zone in a dict, on a free port of loopback, without an outside.

The zone has the form of relayproxy.testing.FakeResolver, so a test can be run against both.
"""

import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from tests.servers.process import Process, free_port, need, program, public_folder

from relayproxy.resolver import CachingResolver

_CONFIG = """\
server:
  interface: 127.0.0.1@{port}
  access-control: 127.0.0.0/8 allow
  do-daemonize: no
  use-syslog: no
  logfile: ""
  verbosity: 1
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: "{folder}/pid"
  module-config: "iterator"
  do-ip6: no
  num-threads: 1
  local-zone: "." static
{data}
remote-control:
  control-enable: no
"""
_STRING = 255  # octets that one string of a TXT record holds (RFC 1035 section 3.3)


class Unbound(Process):
    """One instance. `zone` maps (name, type) to a record or several; `kinds` names to a type of local zone.

    Of use among those types: "refuse" (answers REFUSED) and "deny" (never answers).
    """

    def __init__(self, zone: Mapping[tuple[str, str], Any], kinds: Mapping[str, str] | None = None) -> None:
        need("unbound", root=False)
        self.folder = public_folder("unbound")
        super().__init__("unbound", self.folder / "log")
        self.port = free_port()
        lines = [f'  local-zone: "{name}." {kind}' for name, kind in (kinds or {}).items()]
        for (name, rdtype), records in zone.items():
            lines += (f"  local-data: '{name}. 300 IN {rdtype} {text}'" for text in _texts(rdtype, records))
        text = _CONFIG.format(port=self.port, folder=self.folder, data="\n".join(lines))
        (self.folder / "unbound.conf").write_text(text)

    async def start(self) -> None:
        self.spawn(program("unbound"), "-d", "-c", str(self.folder / "unbound.conf"), cwd=self.folder)
        await self.until_listening(self.port)

    async def stop(self) -> None:
        """End it and remove its folder."""
        try:
            if self.popen is not None:
                await self.end()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def resolver(self, **settings: Any) -> CachingResolver:
        """A resolver of relayproxy's that asks this server."""
        return CachingResolver([("127.0.0.1", self.port)], **settings)


def _texts(rdtype: str, records: Any) -> Iterable[str]:
    """The records as a zone file writes them."""
    several = records if isinstance(records, list | tuple) else [records]
    return [_quoted(record) if rdtype == "TXT" else str(record) for record in several]


def _quoted(record: str | bytes) -> str:
    octets = record.encode() if isinstance(record, str) else record
    strings = [octets[at : at + _STRING] for at in range(0, len(octets), _STRING)] or [b""]
    return " ".join('"' + "".join(map(_escaped, string)) + '"' for string in strings)


def _escaped(octet: int) -> str:
    return chr(octet) if 32 < octet < 127 and chr(octet) not in "\"\\';#" else f"\\{octet:03d}"
