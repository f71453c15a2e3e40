"""An OpenDKIM of the test's own, as the milter of a Postfix: it signs, or it verifies and says so in a header field.

Its DNS is an unbound, asked through the libunbound that Debian's package is built with. It reads the file that names the
server's port anew for each message, which two messages at once don't survive: one at a time.
"""

import shutil
import signal
from pathlib import Path

from tests.servers.process import Process, free_port, need, program, public_folder

_SHARED = """\
Socket inet:{port}@127.0.0.1
PidFile {folder}/pid
TemporaryDirectory {folder}
Syslog no
RequireSafeKeys no
ResolverConfiguration {folder}/libunbound.conf
"""
_VERIFIER = """\
Mode v
InternalHosts 192.0.2.250
AuthservID opendkim.test
AlwaysAddARHeader yes
"""
_SIGNER = """\
Mode s
InternalHosts 127.0.0.0/8
Domain {domain}
Selector {selector}
KeyFile {key}
SignatureAlgorithm {algorithm}
Canonicalization {canonicalization}
"""
_DNS = """\
server:
  do-not-query-localhost: no
forward-zone:
  name: "."
  forward-addr: 127.0.0.1@{port}
"""


class OpenDkim(Process):
    """One instance on `port`. Verifies, unless `start_signing` is used."""

    def __init__(self, dns: int) -> None:
        need("opendkim", root=False)
        self.folder = public_folder("opendkim")
        super().__init__("OpenDKIM", self.folder / "log")
        self.port = free_port()
        (self.folder / "libunbound.conf").write_text(_DNS.format(port=dns))

    async def start(self) -> None:
        await self._start(_VERIFIER)

    async def start_signing(
        self,
        domain: str,
        selector: str,
        key: Path,
        *,
        algorithm: str = "rsa-sha256",
        canonicalization: str = "relaxed/relaxed",
    ) -> None:
        await self._start(
            _SIGNER.format(
                domain=domain,
                selector=selector,
                key=key,
                algorithm=algorithm,
                canonicalization=canonicalization,
            )
        )

    async def _start(self, settings: str) -> None:
        config = self.folder / "opendkim.conf"
        config.write_text(_SHARED.format(port=self.port, folder=self.folder) + settings)
        self.spawn(program("opendkim"), "-f", "-x", str(config), cwd=self.folder)
        await self.until_listening(self.port)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """End it and remove its folder."""
        try:
            if self.popen is not None and self.popen.poll() is None:
                self.signal(signal.SIGKILL)  # it keeps nothing, and takes five seconds to notice a SIGTERM
                await self.until_ended()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


class StrictOpenDkim(OpenDkim):
    """Refuses a message without the fields that RFC 5322 section 3.6 asks for."""

    def __init__(self) -> None:
        super().__init__(free_port())

    async def start(self) -> None:
        await self._start(_VERIFIER + "RequiredHeaders yes\n")
