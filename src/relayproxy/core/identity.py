"""Who the client is: by what a trusted peer says of it (XCLIENT, XFORWARD), and by login.

Must not know the state of a session; it gets a client and returns another one, or an answer.
"""

from dataclasses import replace
from ipaddress import ip_address

from relayproxy.core.services import ListenerServices
from relayproxy.model.client import Client, Credentials
from relayproxy.model.reply import Reply
from relayproxy.smtp.commands import CommandError
from relayproxy.smtp.xclient import XCLIENT_NAMES, XFORWARD_NAMES, address_attribute, parse_attributes


def by_xclient(client: Client, arg: str) -> Client:
    """Return the client that XCLIENT names (Postfix's XCLIENT_README). Raises CommandError."""
    given = parse_attributes(arg, XCLIENT_NAMES)
    return replace(
        _speaking_for(client, given), identity=given.get("LOGIN", client.identity), forwarded=False
    )


def by_xforward(client: Client, arg: str) -> Client:
    """Return the client that XFORWARD describes (Postfix's XFORWARD_README). Raises CommandError."""
    given = parse_attributes(arg, XFORWARD_NAMES)
    return replace(_speaking_for(client, given), forwarded=given.get("SOURCE", "") != "LOCAL")


def _speaking_for(client: Client, given: dict[str, str]) -> Client:
    changes: dict[str, object] = {}
    if "ADDR" in given:
        address = address_attribute(given["ADDR"])
        if address:
            try:
                ip_address(address)
            except ValueError:
                raise CommandError(Reply(501, "5.5.4", "Bad value of ADDR")) from None
        changes["ip"] = address
    if "PORT" in given:
        port = given["PORT"] or "0"
        if not (port.isascii() and port.isdigit() and int(port) < 65536):
            raise CommandError(Reply(501, "5.5.4", "Bad value of PORT"))
        changes["port"] = int(port)
    if "HELO" in given:
        changes["helo"] = given["HELO"]
    if "NAME" in given:
        changes["ptr"] = given["NAME"]
    return replace(client, **changes)  # type: ignore[arg-type]


async def login(at: ListenerServices, client: Client, credentials: Credentials) -> str | Reply:
    """Return the identity that credentials prove, or the refusal (RFC 4954 section 6); counted.

    Plugins are asked first, then the listener's own back end.
    """
    identity, failed = await at.services.pipeline.identify(client, credentials)
    if identity is None and at.authenticator is not None:
        right = await at.authenticator.check(client, credentials)
        if right:
            identity = credentials.login
        failed = failed or right is None
    if identity is not None:
        at.auth["ok"].inc()
        return identity
    if failed:
        at.auth["error"].inc()
        return Reply(454, "4.7.0", "Can't check credentials now, try again later")
    at.auth["wrong"].inc()
    return Reply(535, "5.7.8", "Authentication credentials invalid")
