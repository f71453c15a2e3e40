"""Reports by HTTPS POST (RFC 8460 section 5.4). Never raises for what the other end does.

Must not know what a report says, nor who asked for it.
"""

import asyncio
import ssl
from collections.abc import Sequence
from ipaddress import ip_address

import httpx

from relayproxy.mailauth.tls_destinations import Endpoint
from relayproxy.mailauth.tls_report import MEDIA_TYPE
from relayproxy.model.reply import printable

_WAIT = 30.0  # seconds for one address, with all that is said over it
_MOST_ADDRESSES = 2


def usable(addresses: Sequence[str], *, private: bool) -> list[str]:
    """Return the addresses that a report may be posted to: whoever publishes a record must not reach into our network."""
    return [one for one in addresses if private or ip_address(one).is_global]


async def post(endpoint: Endpoint, addresses: Sequence[str], octets: bytes) -> tuple[bool, str]:
    """Post a compressed report to one of the addresses of an endpoint; say whether it was taken, and the answer.

    The certificate has to be good for the name, and redirects are not followed.
    """
    answer = False, f"{endpoint.host} has no address that may be used"
    async with httpx.AsyncClient(
        verify=ssl.create_default_context(), trust_env=False, timeout=_WAIT
    ) as client:
        for address in addresses[:_MOST_ADDRESSES]:
            answer = await _post(client, endpoint, address, octets)
            if answer[0]:
                break
    return answer


async def _post(
    client: httpx.AsyncClient, endpoint: Endpoint, address: str, octets: bytes
) -> tuple[bool, str]:
    at = f"[{address}]" if ":" in address else address
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    headers = {
        "Host": host if endpoint.port == 443 else f"{host}:{endpoint.port}",
        "Content-Type": MEDIA_TYPE,
    }
    try:
        async with (
            asyncio.timeout(_WAIT),
            client.stream(
                "POST",
                f"https://{at}:{endpoint.port}{endpoint.target}",
                headers=headers,
                content=octets,
                extensions={"sni_hostname": endpoint.host},
            ) as response,
        ):
            return response.is_success, f"{response.status_code} {printable(response.reason_phrase, 100)}"
    except TimeoutError:
        return False, f"no answer within {_WAIT:g} s"
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return False, printable(str(error) or type(error).__name__, 200)
