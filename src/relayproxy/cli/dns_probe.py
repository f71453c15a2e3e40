"""What `relayproxy dns check` looks at beyond DNS: TLS of MX hosts.

Never raises for what the other end does. Must not judge more than whether it works.
"""

import ssl

from relayproxy.delivery.connect import ConnectError, connect
from relayproxy.delivery.settings import Address, Timeouts, UpstreamSettings
from relayproxy.mailauth.audit.report import Line
from relayproxy.model.reply import printable

_WAIT = 10.0  # seconds for one connection, with all that is said over it


async def probe_mx(
    host: str, hostname: str, *, port: int = 25, context: ssl.SSLContext | None = None
) -> Line:
    """Connect to an MX host, and say whether it offers STARTTLS with a certificate that is good for its name.

    A host that doesn't is asked again with less, to say how far it comes.
    """
    trust = context or ssl.create_default_context()
    verified = await _try(host, hostname, port, "verify", trust)
    if not verified:
        return Line("mx", host, "ok", "it offers STARTTLS, and its certificate is good for the name")
    plain = await _try(host, hostname, port, "off", None)
    if plain:
        return Line("mx", host, "error", f"no connection (some networks let nobody out to port 25): {plain}")
    blind = ssl.create_default_context()
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE
    if await _try(host, hostname, port, "required", blind):
        return Line("mx", host, "error", f"it offers no STARTTLS that works: {verified}")
    return Line("mx", host, "warning", f"its certificate can't be verified: {verified}")


async def _try(host: str, hostname: str, port: int, tls: str, context: ssl.SSLContext | None) -> str:
    """Connect once and hang up; return what went wrong, "" for nothing."""
    place = Address(host, port)
    settings = UpstreamSettings(
        host, (place,), hostname, tls=tls, tls_context=context, timeouts=Timeouts(_WAIT, _WAIT)
    )
    try:
        connection = await connect(settings, place, None, ())
    except ConnectError as error:
        return printable(str(error), 200)
    connection.wire.close()
    return ""
