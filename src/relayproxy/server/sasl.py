"""AUTH on a connection: aiosmtpd leads the SASL conversation, the session judges what it brought.

What the inherited methods ask of a server (`push`, an SMTP with a `session`, a reader) is given to them here; how lines
come and go is the connection's affair.
"""

from typing import Any

from aiosmtpd.smtp import AuthResult, LoginPassword
from aiosmtpd.smtp import Envelope as SaslEnvelope
from aiosmtpd.smtp import Session as SaslSession

from relayproxy.core.session import Session
from relayproxy.model.client import Credentials
from relayproxy.model.reply import Reply
from relayproxy.server.stream import Stream

_LONGEST = 12_288  # octets of one answer (RFC 4954 section 4)


class Sasl(Stream):
    """The part of a connection that logs in."""

    async def _auth(self, talk: Session, arg: str, verb: str) -> None:
        refusal = talk.may_auth()
        words = arg.split()
        if refusal is None and not 1 <= len(words) <= 2:
            refusal = Reply(501, "5.5.4", "Syntax: AUTH mechanism [initial-response]")
        if refusal is None and words[0].upper() not in self._at.policy.auth_mechanisms:
            refusal = Reply(504, "5.5.4", "Unrecognized authentication type")
        if refusal is not None:
            self._answer(verb, refusal)
            return
        self.session, self.envelope = SaslSession(self.loop), SaslEnvelope()
        self._reader = self  # type: ignore[assignment]
        self._authenticator = lambda _server, _session, _envelope, _mechanism, data: AuthResult(
            success=True, auth_data=data
        )
        mechanism = words[0].upper()
        if words[1:] == ["="]:
            words[1] = ""
        if mechanism == "PLAIN":
            result = await self.auth_PLAIN(self, words)
        else:
            result = await self.auth_LOGIN(self, words)
        data = result.auth_data
        if not result.success or not isinstance(data, LoginPassword):
            self._at.commands[verb][3].inc()
            return
        try:
            credentials = Credentials(mechanism, data.login.decode("utf-8"), data.password.decode("utf-8"))
        except UnicodeDecodeError:
            self._answer(verb, Reply(501, "5.5.2", "Credentials are UTF-8"))
            return
        self._answer(verb, await talk.authenticate(credentials))

    async def push(self, status: Any) -> None:
        """Send a line on behalf of an inherited SASL method."""
        text = status if isinstance(status, bytes) else str(status).encode("ascii", "replace")
        self._out.append(text + b"\r\n")

    async def readline(self) -> bytes:
        """Return the client's answer to a SASL challenge; "*" (an abort) when there is none to come."""
        until = self.loop.time() + self._limits.command_timeout
        while b"\n" not in self._buffer:
            if len(self._buffer) > _LONGEST or not await self._wait(until - self.loop.time()):
                return b"*\r\n"
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line + b"\n"
