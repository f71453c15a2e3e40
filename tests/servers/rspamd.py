"""An Rspamd of the test's own, as the milter of a Postfix, reduced to SPF, DKIM, DMARC and ARC.

It signs for clients in `SIGNS_FOR` and checks the mail of all others. Its own rules, its lists and its statistics are
not loaded: it needs no Redis and nothing from outside.
"""

import shutil
from pathlib import Path

from tests.servers.process import Process, free_port, need, program, public_folder

SIGNS_FOR = "127.0.0.8"
_CONFIG = """\
options {{
  pidfile = "{folder}/pid";
  control_socket = "{folder}/control mode=0600";
  tempdir = "{folder}";
  hs_cache_dir = "{folder}";
  url_tld = "{folder}/tlds";
  filters = "dkim";
  history_rows = 1;
  dns {{ nameserver = ["127.0.0.1:{dns}"]; timeout = 2s; }}
}}
logging {{ type = "file"; filename = "{folder}/log"; level = "info"; }}
modules {{ {modules} }}
dkim {{ check_local = true; }}
spf {{ check_local = true; }}
dmarc {{ check_local = true; }}
arc {{
  check_local = true;
  sign_local = {seals}; use_domain = "{domain}"; use_esld = false; try_fallback = true;
  path = "{key}"; selector = "{selector}"; allow_hdrfrom_mismatch = true; allow_envfrom_empty = true;
}}
dkim_signing {{
  sign_networks = ["{signs_for}/32"]; sign_local = false; sign_authenticated = false; use_esld = false;
  domain {{ "{domain}" {{ selectors = [ {{ selector = "{selector}"; path = "{key}"; }} ]; }} }}
}}
milter_headers {{ use = ["authentication-results"]; skip_local = false; skip_authenticated = false; }}
actions {{ reject = 1000; add_header = 900; greylist = 800; }}
worker "rspamd_proxy" {{
  bind_socket = "127.0.0.1:{port}"; milter = yes; count = 1;
  upstream "local" {{ default = yes; self_scan = yes; }}
}}
"""
_MODULES = ("spf", "dmarc", "arc", "dkim_signing", "milter_headers")


class Rspamd(Process):
    """One instance on `port`; `key` signs for `domain`, and with `seals` adds an ARC set to all else."""

    def __init__(self, dns: int, domain: str, selector: str, key: Path, *, seals: bool = False) -> None:
        need("rspamd", root=False)
        self.folder = public_folder("rspamd")
        super().__init__("Rspamd", self.folder / "log")
        self.port = free_port()
        (self.folder / "tlds").write_text("com\norg\nnet\n")
        text = _CONFIG.format(
            folder=self.folder,
            signs_for=SIGNS_FOR,
            dns=dns,
            modules=" ".join(f'path = "${{PLUGINSDIR}}/{name}.lua";' for name in _MODULES),
            domain=domain,
            selector=selector,
            key=key,
            seals="true" if seals else "false",
            port=self.port,
        )
        (self.folder / "rspamd.conf").write_text(text)

    async def start(self) -> None:
        variables = [f"--var={name}={self.folder}" for name in ("DBDIR", "RUNDIR", "LOGDIR")]
        config = str(self.folder / "rspamd.conf")
        self.spawn(program("rspamd"), "-f", "-i", "-c", config, *variables, cwd=self.folder)
        await self.until_listening(self.port)

    async def stop(self) -> None:
        """End it and remove its folder."""
        try:
            if self.popen is not None:
                await self.end()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
