"""What `relayproxy dns check` looks at beyond DNS: the policy file of MTA-STS over HTTPS, and TLS of MX hosts.

Never raises for what the other end does. Must not judge more than whether it works.
"""

import asyncio
import ssl
from collections.abc import Sequence

import httpx

from relayproxy.delivery.connect import ConnectError, connect
from relayproxy.delivery.settings import Address, Timeouts, UpstreamSettings
from relayproxy.mailauth.audit.report import Line
from relayproxy.mailauth.audit.transport import MOST_OCTETS, PolicyFile
from relayproxy.model.reply import printable

_WAIT = 10.0  # seconds for one connection, with all that is said over it
_MOST_ADDRESSES = 2


async def fetch_policy(
    domain: str, addresses: Sequence[str], *, port: int = 443, context: ssl.SSLContext | None = None
) -> PolicyFile:
    """Fetch the policy file of a domain from the addresses of its mta-sts host (RFC 8461 section 3.3).

    The certificate has to be good for the name, and redirects are not followed.
    """
    found = PolicyFile(fault=f"mta-sts.{domain} has no address")
    trust = context or ssl.create_default_context()
    async with httpx.AsyncClient(verify=trust, trust_env=False, timeout=_WAIT) as client:
        for address in addresses[:_MOST_ADDRESSES]:
            found = await _get(client, domain, address, port)
            if not found.fault:
                break
    return found


async def _get(client: httpx.AsyncClient, domain: str, address: str, port: int) -> PolicyFile:
    host = f"mta-sts.{domain}"
    at = f"[{address}]" if ":" in address else address
    try:
        async with (
            asyncio.timeout(_WAIT),
            client.stream(
                "GET",
                f"https://{at}:{port}/.well-known/mta-sts.txt",
                headers={"Host": host},
                extensions={"sni_hostname": host},
            ) as response,
        ):
            text = b""
            async for piece in response.aiter_bytes():
                text += piece
                if len(text) > MOST_OCTETS:
                    break
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            return PolicyFile(response.status_code, text, media_type)
    except TimeoutError:
        return PolicyFile(fault=f"no answer within {_WAIT:g} s")
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return PolicyFile(fault=printable(str(error) or type(error).__name__, 200))


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
