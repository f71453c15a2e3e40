"""Postfix with Rspamd, or with OpenDKIM and its companions, as people install them to check or to sign mail.

Milters see a message only where Postfix queues it, so these instances have a queue and send from it to the sink. Every
milter is reduced to what relayproxy does in the same cell, writes no log of its own, and keeps DNS answers.
"""

import time
from pathlib import Path

from bench import tree
from bench.lab import Place, Running
from bench.names import DOMAIN, SELECTOR, missing_names
from bench.peers.base import Relay
from bench.peers.group import start_group
from bench.peers.postfix import Instance, missing_postfix
from bench.programs import ROOT, BenchError, find, first_line, free_port, listens

_ID = "postfix.bench.example"

_RSPAMD = """\
options {{
  pidfile = "{folder}/rspamd.pid";
  control_socket = "{folder}/rspamd.sock mode=0600";
  tempdir = "{folder}";
  hs_cache_dir = "{folder}";
  url_tld = "{folder}/tlds";
  filters = "{filters}";
  history_rows = 1;
  dns {{ nameserver = ["{dns}:53"]; timeout = 2s; }}
}}
logging {{ type = "file"; filename = "{folder}/rspamd.log"; level = "warning"; }}
modules {{ {modules} }}
{settings}
actions {{ reject = 1000; add_header = 900; greylist = 800; }}
worker "rspamd_proxy" {{
  bind_socket = "127.0.0.1:{port}"; milter = yes; count = 1;
  upstream "local" {{ default = yes; self_scan = yes; }}
}}
"""
_RSPAMD_CHECKS = """\
dkim { check_local = true; }
spf { check_local = true; }
dmarc { check_local = true; }
milter_headers { use = ["authentication-results"]; skip_local = false; skip_authenticated = false; }
"""
_RSPAMD_SIGNS = """\
dkim_signing {{
  sign_local = true; use_esld = false;
  domain {{ "{domain}" {{ selectors = [ {{ selector = "{selector}"; path = "{key}"; }} ]; }} }}
}}
"""

_OPENDKIM = """\
Socket inet:{port}@127.0.0.1
PidFile {folder}/opendkim.pid
Syslog no
RequireSafeKeys no
TemporaryDirectory /tmp
Canonicalization relaxed/relaxed
"""
# Debian's OpenDKIM asks through libunbound, which does not read /etc/resolv.conf, and caches answers by itself. (With a
# ResolverConfiguration it reads that file again for each message, in several threads at once, and dies of it.)
_OPENDKIM_CHECKS = "Mode v\nInternalHosts 192.0.2.250\nAuthservID {id}\nNameservers {dns}\n"
_OPENDKIM_SIGNS = "Mode s\nInternalHosts 127.0.0.0/8\nDomain {domain}\nSelector {selector}\nKeyFile {key}\n"
_OPENDMARC = """\
Socket inet:{port}@127.0.0.1
PidFile {folder}/opendmarc.pid
Syslog false
AuthservID {id}
TrustedAuthservIDs {id}
IgnoreHosts {folder}/ignore
SPFIgnoreResults false
SPFSelfValidate false
RejectFailures false
"""
_POLICYD = """\
debugLevel = 0
TestOnly = 0
HELO_reject = False
Mail_From_reject = False
Header_Type = AR
Authserv_Id = {id}
skip_addresses = 192.0.2.250/32
"""
_SPF_SERVICE = "policy-spf unix - n n - 0 spawn user=nobody argv={program} {folder}/policyd-spf.conf\n"
_SPF_SETTINGS = """\
smtpd_recipient_restrictions = check_policy_service unix:private/policy-spf
policy-spf_time_limit = 3600s
"""


class _Milters(Relay):
    """A Postfix in front of programs; `signs` says whether they sign or check."""

    programs: tuple[str, ...] = ()

    def __init__(self, *, signs: bool) -> None:
        self._signs = signs
        self.name += "-dkim" if signs else ""
        self.proof = (f"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d={DOMAIN}",)
        if not signs:
            self.proof = ("spf=pass", "dkim=pass", "dmarc=pass")

    def missing(self) -> str:
        for program in self.programs:
            if not find(program):
                return f"{program} is not installed"
        return missing_postfix() or missing_names()


class PostfixRspamd(_Milters):
    name = "postfix-rspamd"
    programs = ("rspamd",)

    def __init__(self, *, signs: bool = False) -> None:
        super().__init__(signs=signs)
        self.about = f"with a queue, and Rspamd as milter, reduced to {'DKIM signing' if signs else 'SPF, DKIM and DMARC'}"

    def version(self) -> str:
        return first_line(find("rspamd"), "--version")

    def start(self, place: Place) -> Running:
        folder, port, names = self.folder(place.lab), free_port(), place.lab.names()
        (folder / "tlds").write_text("example\ncom\n")
        settings, wanted = _RSPAMD_CHECKS, ("spf", "dmarc", "milter_headers")
        if self._signs:
            settings = _RSPAMD_SIGNS.format(domain=DOMAIN, selector=SELECTOR, key=names.key)
            wanted = ("dkim_signing",)
        config = folder / "rspamd.conf"
        config.write_text(
            _RSPAMD.format(
                folder=folder,
                filters="dkim",
                dns=names.address,
                modules=" ".join(f'path = "${{PLUGINSDIR}}/{module}.lua";' for module in wanted),
                settings=settings,
                port=port,
            )
        )
        variables = [f"--var={name}={folder}" for name in ("DBDIR", "RUNDIR", "LOGDIR")]
        rspamd = [find("rspamd"), "-f", "-i", "-c", config, *variables]
        postfix = Instance(folder, place, queue=True, settings=f"smtpd_milters = inet:127.0.0.1:{port}\n")
        return _run(place, folder, [rspamd, postfix.command], postfix, [port])


class PostfixRspamdDefault(_Milters):
    """All of Rspamd as Debian ships it: its own rspamd.conf with all modules, rules, lists and maps that it brings.

    What differs: where it listens, one process, the name server, a Redis for the modules that keep something there,
    results in the header, and SPF, DKIM, DMARC and ARC look at mail from loopback too. It has no access to the
    internet, so the maps that it would fetch are not there, and fuzzy hashes aren't asked, which is to its advantage.
    """

    name = "postfix-rspamd-default"
    programs = ("rspamd", "redis-server")

    def __init__(self) -> None:
        super().__init__(signs=False)
        self.about = "with a queue, and Rspamd as milter with its default modules and rules, and Redis"

    def missing(self) -> str:
        return super().missing() or ("" if _DEBIAN.exists() else f"{_DEBIAN} does not exist")

    def version(self) -> str:
        return first_line(find("rspamd"), "--version")

    def start(self, place: Place) -> Running:
        folder, port, redis, names = self.folder(place.lab), free_port(), free_port(), place.lab.names()
        _CACHE.mkdir(parents=True, exist_ok=True)
        local = folder / "local.d"
        local.mkdir()
        for file, text in _LOCAL.items():
            (local / file).write_text(text.format(dns=names.address, port=port, redis=redis, cache=_CACHE))
        words = [
            "--save",
            "",
            "--appendonly",
            "no",
            "--port",
            str(redis),
            "--bind",
            "127.0.0.1",
            "--dir",
            folder,
        ]
        variables = {"DBDIR": folder, "RUNDIR": folder, "LOGDIR": folder, "LOCAL_CONFDIR": folder}
        rspamd = [
            find("rspamd"),
            "-f",
            "-i",
            "-c",
            _DEBIAN,
            *(f"--var={k}={v}" for k, v in variables.items()),
        ]
        postfix = Instance(folder, place, queue=True, settings=f"smtpd_milters = inet:127.0.0.1:{port}\n")
        commands = [[find("redis-server"), *words], rspamd, postfix.command]
        running = _run(place, folder, commands, postfix, [port, redis], 300.0)
        assert running.pid is not None
        _until_quiet(running.pid)
        return running


def _until_quiet(pid: int, seconds: float = 300.0) -> None:
    """Return when processes do nothing any more: after its start Rspamd compiles its expressions."""
    until = time.monotonic() + seconds
    used = tree.cpu_seconds(pid)
    while time.monotonic() < until:
        time.sleep(2.0)
        before, used = used, tree.cpu_seconds(pid)
        if used - before < 0.1:
            return
    raise BenchError(f"still busy {seconds:.0f} s after the start")


_CACHE = ROOT / "bench" / ".cache" / "rspamd"
_DEBIAN = Path("/etc/rspamd/rspamd.conf")
_LOCAL = {
    "options.inc": 'dns {{ nameserver = ["{dns}:53"]; }}\nhs_cache_dir = "{cache}";\n',
    "logging.inc": 'level = "warning";\n',
    "fuzzy_check.conf": 'rule "rspamd.com" {{ enabled = false; servers = "127.0.0.1:1"; }}\n',
    **{f"{module}.conf": "check_local = true;\n" for module in ("spf", "dkim", "dmarc", "arc")},
    "redis.conf": 'servers = "127.0.0.1:{redis}";\n',
    "milter_headers.conf": 'use = ["authentication-results"]; skip_local = false; skip_authenticated = false;\n',
    "worker-proxy.inc": (
        'bind_socket = "127.0.0.1:{port}"; count = 1;\n'
        'upstream "local" {{ default = yes; self_scan = yes; hosts = "localhost"; }}\n'
    ),
    "worker-normal.inc": "enabled = false;\n",
    "worker-controller.inc": "enabled = false;\n",
}
"""What goes into Debian's folder for local settings, by name of the file."""


class PostfixOpendkim(_Milters):
    name = "postfix-opendkim"

    def __init__(self, *, signs: bool = False) -> None:
        super().__init__(signs=signs)
        self.programs = ("opendkim",) if signs else ("opendkim", "opendmarc", "policyd-spf")
        self.about = "with a queue, and OpenDKIM as milter" + (
            ", signing" if signs else ", OpenDMARC behind it, policyd-spf as policy service"
        )

    def version(self) -> str:
        return first_line(find("opendkim"), "-V").partition(": ")[2]

    def start(self, place: Place) -> Running:
        folder, names = self.folder(place.lab), place.lab.names()
        port = free_port()
        text = _OPENDKIM.format(port=port, folder=folder)
        if self._signs:
            text += _OPENDKIM_SIGNS.format(domain=DOMAIN, selector=SELECTOR, key=names.key)
        else:
            text += _OPENDKIM_CHECKS.format(id=_ID, dns=names.address)
        commands = [self._command(folder, "opendkim", text)]
        settings, services, ports = "", "", [port]
        if not self._signs:
            ports.append(free_port())
            (folder / "ignore").write_text("192.0.2.250\n")
            text = _OPENDMARC.format(port=ports[1], folder=folder, id=_ID)
            commands.append(self._command(folder, "opendmarc", text))
            (folder / "policyd-spf.conf").write_text(_POLICYD.format(id=_ID))
            settings = _SPF_SETTINGS
            services = _SPF_SERVICE.format(program=find("policyd-spf"), folder=folder)
        settings += f"smtpd_milters = {', '.join(f'inet:127.0.0.1:{one}' for one in ports)}\n"
        postfix = Instance(folder, place, queue=True, settings=settings, services=services)
        return _run(place, folder, [*commands, postfix.command], postfix, ports)

    def _command(self, folder: Path, program: str, text: str) -> list[str | Path]:
        config = folder / f"{program}.conf"
        config.write_text(text)
        flag = "-x" if program == "opendkim" else "-c"
        return [find(program), "-f", flag, config]


def _run(
    place: Place,
    folder: Path,
    commands: list[list[str | Path]],
    postfix: Instance,
    ports: list[int],
    patience: float = 20.0,
) -> Running:
    program = start_group(place, folder, commands)
    program.wait_for(lambda: all(map(listens, ports)), "listen for Postfix", patience)
    program.wait_for_banner(postfix.port)
    return Running(postfix.port, program.pid, queues=True)
