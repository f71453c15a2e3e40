"""Where to listen or connect, as an admin writes it: `host:port`, `[v6]:port` or `unix:/path`; the one grammar for it.

Must not know who listens there, and opens nothing.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address

from relayproxy.model.address import to_a_label
from relayproxy.model.refused import Refused, quoted


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to listen or connect: `host` and `port`, or the `path` of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_unix(self) -> bool:
        """Whether this is a Unix socket."""
        return bool(self.path)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it, as far as the text tells."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\Z")
_HOST_PORT = re.compile(r"(\[[^\]]*\]|[^:]*):([^:]*)\Z")
_SOCKET_PATH_ROOM = 107  # sun_path of Linux, without its NUL


def is_host_name(text: str) -> bool:
    """Whether a text in A-label form, in lower case and without a final dot, is the name of a host or a domain."""
    return len(text) <= 253 and _HOST.match(text) is not None


def _unix(text: str) -> Endpoint:
    path = text.removeprefix("unix:")
    if not path.startswith("/"):
        raise Refused(f"{quoted(text)} is not an absolute path", "write unix:/run/relayproxy/smtp.sock")
    if len(path.encode("utf-8", "surrogateescape")) > _SOCKET_PATH_ROOM or "\0" in path:
        raise Refused(f"{quoted(text)} can't be the path of a socket", "at most 107 octets")
    return Endpoint(path=path)


def _host(text: str, whole: str) -> str:
    """Return the host in the form that it is connected to."""
    if text.startswith("["):
        try:
            return str(ip_address(text[1:-1]))
        except ValueError:
            raise Refused(f"{quoted(text)} is not an address", "such as [2001:db8::1]:25") from None
    if text in ("", "*"):
        raise Refused(f"{quoted(whole)} has no host", "for all addresses write 0.0.0.0 (IPv4) or [::] (IPv6)")
    host = to_a_label(text).rstrip(".")
    if not is_host_name(host):
        raise Refused(f"{quoted(text)} is not a host name")
    if re.fullmatch(r"[0-9.]+", host):
        try:
            ip_address(host)
        except ValueError:
            raise Refused(f"{quoted(text)} is not an IPv4 address") from None
    return host


def _port(text: str, whole: str, lowest: int) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) or not lowest <= int(text) <= 65535:
        raise Refused(f"{quoted(whole)} has no valid port", "a port is a number from 1 to 65535")
    return int(text)


def read_endpoint(value: object, *, lowest_port: int = 1, default_port: int = 0) -> Endpoint:
    """Return the endpoint of `host:port`, `[v6]:port` or `unix:/path`; `default_port` 0 asks for a port.

    Raises Refused.
    """
    if isinstance(value, Endpoint):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        raise Refused(f"{quoted(value)} has no host", f"write 127.0.0.1:{value} or 0.0.0.0:{value}")
    if not isinstance(value, str):
        raise Refused("an address is wanted", "write host:port, [v6]:port or unix:/path")
    text = value.strip()
    if text.startswith("unix:"):
        return _unix(text)
    if text.startswith("/"):
        raise Refused(f"{quoted(text)} looks like a path", f"for a Unix socket write unix:{text}")
    found = _HOST_PORT.match(text)
    if found:
        return Endpoint(_host(found[1], text), _port(found[2], text, lowest_port))
    bare = text.strip("[]")
    if bare.count(":") > 1:
        try:
            v6 = ip_address(bare)
        except ValueError:
            raise Refused(f"{quoted(text)} is not host:port") from None
        if default_port:
            return Endpoint(str(v6), default_port)
        raise Refused(f"{quoted(text)} has no port", f"write [{v6}]:25")
    host = _host(text, text)
    if not default_port:
        raise Refused(f"{quoted(text)} has no port", f"write {host}:25")
    return Endpoint(host, default_port)
