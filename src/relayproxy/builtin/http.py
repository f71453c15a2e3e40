"""http: asks web services about a mail; JSON in, JSON out.

Must not know what the JSON says, beyond putting the message into it.
"""

import asyncio
import base64
from collections.abc import Sequence

from pydantic import Field

from relayproxy.api import App, Mail, Recipient, SecretRef, hook
from relayproxy.builtin import _script
from relayproxy.builtin._asking import ON_THE_LOOP, Asking, Script, ScriptsSettings, whole
from relayproxy.builtin._http import Caller, Url


class WebService(Script):
    """One web service."""

    url: Url
    """Where it takes a POST of `application/json`: `https://checks.example.com/mail`."""
    token: SecretRef | None = None
    """What it shall know us by (`Authorization: Bearer ...`): `{env: NAME}`, `{file: path}` or `{credential: name}`."""


class HttpSettings(ScriptsSettings):
    """Which web services there are."""

    scripts: tuple[WebService, ...] = Field(min_length=1, max_length=16)
    """The web services, in the order in which they are asked."""


class Http(Asking[HttpSettings, WebService]):
    """Ask web services about mail."""

    name = "http"
    settings = HttpSettings
    default_timeout = 10.0
    _caller: Caller
    _tokens: dict[str, str]

    @hook
    def startup(self, app: App) -> None:
        """Read the tokens. Raises SecretError."""
        self._tokens = {one.name: one.token.reveal() for one in self.options.scripts if one.token}
        self._caller = Caller()
        self.begin(app)

    @hook
    async def shutdown(self) -> None:
        """Close the connections."""
        await self._caller.close()

    def scripts(self) -> Sequence[WebService]:
        """Return the web services."""
        return self.options.scripts

    async def reach(self, script: WebService, mail: Mail, recipient: Recipient | None) -> bytes:
        """Post the JSON; the message is in it as base64."""
        if whole(script, mail) and mail.message.size > ON_THE_LOOP:
            body = await asyncio.to_thread(_body, script, mail, recipient)
        else:
            body = _body(script, mail, recipient)
        headers = [("Content-Type", b"application/json")]
        if script.name in self._tokens:
            headers.append(("Authorization", f"Bearer {self._tokens[script.name]}".encode()))
        return await self._caller.post(script.url, body, headers)


def _body(script: WebService, mail: Mail, recipient: Recipient | None) -> bytes:
    values = _script.facts(mail, script.at, recipient)
    if whole(script, mail):
        values["message"] = base64.b64encode(bytes(mail.message)).decode()
    return _script.written(values)
