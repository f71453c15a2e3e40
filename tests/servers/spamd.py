"""A spamd of the test's own, with a few rules of the test's own and nothing from outside.

A message says by the words in its body what SpamAssassin shall think of it.
"""

import shutil

from tests.servers.process import Process, free_port, need, program, public_folder

_RULES = """\
required_score 5.0
util_rb_tld com net org example
skip_rbl_checks 1
dns_available no
clear_headers
body TEST_LOW /low-word/
score TEST_LOW 1.5
body TEST_SPAM /spam-word/
score TEST_SPAM 6
body TEST_BAD /reject-word/
score TEST_BAD 20
header TEST_RELAY X-Spam-Relays-External =~ /^\\[ ip=192\\.0\\.2\\.1 rdns=\\S* helo=client\\.example\\.org by=mx\\.example\\.com /
score TEST_RELAY 0.1
header TEST_FROM EnvelopeFrom =~ /^a\\@example\\.org$/
score TEST_FROM 0.1
"""


class Spamd(Process):
    """One instance on `port`. A message of a client that it is told of hits TEST_RELAY, one of a@example.org TEST_FROM."""

    def __init__(self) -> None:
        need("spamd")
        self.folder = public_folder("spamd")
        super().__init__("spamd", self.folder / "log")
        self.port = free_port()
        for name in ("rules", "site", "home"):
            (self.folder / name).mkdir()
        (self.folder / "site" / "init.pre").write_text("loadplugin Mail::SpamAssassin::Plugin::Check\n")
        (self.folder / "home").chmod(0o777)
        (self.folder / "rules" / "test.cf").write_text(_RULES)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        folder = self.folder
        self.spawn(
            program("spamd"),
            *("--listen", self.address, "--local", "--nouser-config", "--syslog", "stderr"),
            *("--configpath", f"{folder}/rules", "--siteconfigpath", f"{folder}/site"),
            *("--helper-home-dir", f"{folder}/home", "--username", "nobody", "--pidfile", f"{folder}/pid"),
            *("--min-children", "1", "--max-children", "2", "--max-spare", "1"),
            cwd=folder,
        )
        await self.until_listening(self.port)

    async def stop(self) -> None:
        """End it and remove its folder."""
        try:
            if self.popen is not None and self.popen.poll() is None:
                await self.kill()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
