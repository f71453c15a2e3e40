"""An upstream as AUTH back end: the client's credentials are tried there, on a connection of their own."""

import asyncio
import ssl
from dataclasses import replace

import aiosmtplib

from relayproxy.core.log import Log
from relayproxy.delivery.settings import UpstreamSettings
from relayproxy.model.client import Client, Credentials

_NO_VERDICT = frozenset({500, 502, 503, 504, 530, 538})
"""Refusals of AUTH itself, not of the credentials: unknown, out of sequence, no such mechanism, not without TLS."""


class UpstreamLogin:
    """Implements ports.Authenticator."""

    def __init__(self, settings: UpstreamSettings, log: Log) -> None:
        self._settings = replace(settings, login="", password="")
        self._log = log

    async def check(self, client: Client, credentials: Credentials) -> bool | None:
        """Log in; None when the upstream can't be asked, or offers no AUTH on this connection."""
        settings = self._settings
        # Under a ratchet tls_context verifies, also where `tls` asks for less.
        lax = settings.tls in ("opportunistic", "required") and settings.unverified_context is not None
        trust = settings.unverified_context if lax else settings.tls_context
        problem = "no address"
        for address in settings.addresses:
            library = aiosmtplib.SMTP(
                hostname=address.host or "localhost",
                port=None if address.path else address.port,
                socket_path=address.path or None,
                local_hostname=settings.hostname,
                use_tls=settings.tls == "implicit",
                start_tls={"off": False, "implicit": False, "opportunistic": None}.get(settings.tls, True),
                tls_context=trust,
                timeout=settings.timeouts.connect,
            )
            try:
                async with asyncio.timeout(settings.timeouts.connect + settings.timeouts.command):
                    await library.connect()
                    await library.login(credentials.login, credentials.password)
            except aiosmtplib.SMTPAuthenticationError as error:
                if error.code >= 500 and error.code not in _NO_VERDICT:
                    return False
                problem = f"{address}: {error.code}"
            except (aiosmtplib.SMTPException, OSError, ssl.SSLError, TimeoutError, ValueError) as error:
                # The text of a library error could quote what was sent; its kind says enough.
                problem = f"{address}: {type(error).__name__}"
            else:
                return True
            finally:
                library.close()
        self._log.error("auth_upstream", upstream=settings.name, id=client.id, problem=problem)
        return None
