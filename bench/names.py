"""DNS for the cells that check mail: an unbound over a small zone, the same for every peer, that knows nothing else.

It listens on port 53 of an address of its own, because some peers only know /etc/resolv.conf; they are started where
that file names it (see peers/group.py).
"""

import base64
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.certificate import write_key
from bench.programs import BenchError, Program, find, listens

DOMAIN = "bench.example"
SELECTOR = "bench"
_CONFIG = """\
server:
  interface: {address}@53
  access-control: 127.0.0.0/8 allow
  do-daemonize: no
  use-syslog: no
  logfile: ""
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: "{folder}/unbound.pid"
  module-config: "iterator"
  do-ip6: no
  local-zone: "." static
  local-data: '{domain}. 3600 IN TXT "v=spf1 ip4:127.0.0.0/8 -all"'
  local-data: 'client.{domain}. 3600 IN TXT "v=spf1 ip4:127.0.0.0/8 -all"'
  local-data: '_dmarc.{domain}. 3600 IN TXT "v=DMARC1; p=reject"'
  local-data: '{selector}._domainkey.{domain}. 3600 IN TXT {key}'
  local-data: '1.0.0.127.in-addr.arpa. 3600 IN PTR client.{domain}.'
  local-data: 'client.{domain}. 3600 IN A 127.0.0.1'
remote-control:
  control-enable: no
"""


def missing_names() -> str:
    """Why there can be no DNS here, or ""."""
    if not find("unbound"):
        return "unbound is not installed (Debian: unbound)"
    if os.geteuid() != 0:
        return "a name server on port 53 needs root"
    return "" if find("unshare") else "unshare is not installed (Debian: util-linux)"


@dataclass(frozen=True)
class Names:
    """The name server's address (port 53), a resolv.conf that names it, and the key whose public half it knows."""

    address: str
    resolv_conf: Path
    key: Path


def start_names(folder: Path, stack: ExitStack) -> Names:
    """Start the name server with files in `folder`, and put its end on the stack. Raises BenchError."""
    if why := missing_names():
        raise BenchError(why)
    address = f"127.53.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
    key = folder / f"{DOMAIN}.{SELECTOR}.pem"
    public = write_key(key).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    record = "v=DKIM1; k=rsa; p=" + base64.b64encode(public).decode()
    config = folder / "unbound.conf"
    config.write_text(
        _CONFIG.format(
            address=address,
            folder=folder,
            domain=DOMAIN,
            selector=SELECTOR,
            key=" ".join(f'"{record[at : at + 255]}"' for at in range(0, len(record), 255)),
        )
    )
    resolv_conf = folder / "resolv.conf"
    resolv_conf.write_text(f"nameserver {address}\n")
    program = Program([find("unbound"), "-d", "-c", config], folder / "unbound.log")
    stack.callback(program.end)
    program.wait_for(lambda: listens(53, address), "listen")
    return Names(address, resolv_conf, key)
