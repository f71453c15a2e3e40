"""The policy file of MTA-STS, over HTTPS (RFC 8461 section 3.3). Loaded only where one is wanted, as its library is large.

Never raises for what the other end does. Must not judge what the file says.
"""

import asyncio
import ssl
from collections.abc import Sequence

import httpx

from relayproxy.mailauth.mta_sts import MOST_OCTETS, PolicyFile
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
