"""The other end of a connection, as far as it is known. A new value replaces the old one as more is learnt."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TlsInfo:
    """The facts of a TLS session: `version` as OpenSSL writes it ("TLSv1.3"), `cipher`, key `bits`.

    `subject` and `fingerprint` (SHA-256, hex) describe a client certificate, `verified` whether a CA of ours
    vouches for it.
    """

    version: str
    cipher: str
    bits: int
    subject: str = ""
    fingerprint: str = ""
    verified: bool = False


@dataclass(frozen=True, slots=True)
class Client:
    """Who is talking to us.

    `ip` is the address that checks use (from the socket, or from PROXY, XCLIENT or XFORWARD of a trusted
    peer) and "" on a Unix socket; `peer` is the address of the socket itself. `ptr` is the verified reverse
    name or "". `identity` is the login, or "". `trusted` says whether the client may relay anywhere, and is
    decided by the core alone. `proto` is "SMTP", "ESMTP" or "LMTP".
    """

    id: str
    listener: str
    ip: str
    port: int = 0
    peer: str = ""
    helo: str = ""
    proto: str = "SMTP"
    ptr: str = ""
    tls: TlsInfo | None = None
    identity: str = ""
    trusted: bool = False
    local_ip: str = ""
    local_port: int = 0
    forwarded: bool = False

    def greeted(self, helo: str, proto: str) -> "Client":
        """Return the client after its EHLO, HELO or LHLO; what dataclasses.replace does, at a third of its cost."""
        return Client(
            self.id,
            self.listener,
            self.ip,
            self.port,
            self.peer,
            helo,
            proto,
            self.ptr,
            self.tls,
            self.identity,
            self.trusted,
            self.local_ip,
            self.local_port,
            self.forwarded,
        )


@dataclass(frozen=True, slots=True)
class Credentials:
    """What AUTH brought: the mechanism, the login and the password. Its repr shows no password."""

    mechanism: str
    login: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials(mechanism={self.mechanism!r}, login={self.login!r}, password=***)"


@dataclass(frozen=True, slots=True)
class SessionTotals:
    """What a connection came to: counts of messages and recipients, octets received, seconds it lasted."""

    messages: int
    recipients: int
    octets: int
    seconds: float
