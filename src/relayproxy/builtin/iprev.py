"""iprev: whether the client's address has a name that leads back to it (RFC 8601 section 2.7.3).

Notes the fact for later plugins, rules and Authentication-Results; refuses only if told to. Must not judge the
name itself, nor compare it with what the client said in EHLO.
"""

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any, Literal

from relayproxy.api import App, Client, Opinion, Plugin, Settings, defer, fetch_from, hook, reject
from relayproxy.builtin._lookup import NotKnownError, at_once, known_to, peek_at
from relayproxy.mailauth.iprev import check_iprev
from relayproxy.mailauth.lookup import Fetch


class IprevSettings(Settings):
    """What to do about each result. All but `pass` are facts about DNS, and many honest servers have them."""

    fail: Literal["accept", "defer", "reject"] = "accept"
    """The address has names, but none leads back to it."""
    permerror: Literal["accept", "defer", "reject"] = "accept"
    """The address has no name."""
    temperror: Literal["accept", "defer"] = "accept"
    """DNS gave no answer."""


class Iprev(Plugin[IprevSettings]):
    """Look the client's name up as soon as it connects; the first mail that needs the result waits for it."""

    name = "iprev"
    settings = IprevSettings
    after = ()

    @hook
    def startup(self, app: App) -> None:
        """Keep the resolver."""
        self._fetch = fetch_from(app.resolver)
        self._known = known_to(peek_at(app.resolver))

    @hook(background=True)
    def connect(self, client: Client, note: Callable[..., Any]) -> Opinion | Awaitable[Opinion]:
        """Note "iprev" with the properties policy.iprev (the address) and, on a pass, `name`."""
        if not client.ip or client.trusted or ip_address(client.ip).is_loopback:
            return None
        try:
            return at_once(self._check(client, note, self._known))
        except NotKnownError:
            return self._check(client, note, self._fetch)

    async def _check(self, client: Client, note: Callable[..., Any], fetch: Fetch) -> Opinion:
        found = await check_iprev(client.ip, fetch)
        note("iprev", found.result, reason=found.reason, policy__iprev=client.ip, name=found.name)
        return self._opinion(client.ip, found.result)

    def _opinion(self, ip: str, result: str) -> Opinion:
        action = getattr(self.options, result, "accept")
        if action == "reject":
            return reject(
                f"The reverse name of {ip} does not lead back to it",
                status="5.7.25",
                reason=f"iprev {result}",
            )
        if action == "defer":
            return defer(
                f"The reverse name of {ip} can't be confirmed",
                code=450,
                status="4.7.25",
                reason=f"iprev {result}",
            )
        return None
