"""One mail transaction with a next hop, pipelined where it allows (RFC 2920), by BDAT where it can (RFC 3030).

Every reply is kept for itself. Trouble with the connection becomes a 4yz reply; before the first octet of a
transaction a stale kept connection is replaced once; after the final dot nothing is ever sent again.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from relayproxy.delivery.connect import ConnectError, Connection
from relayproxy.delivery.wire import WireError
from relayproxy.model.client import Client
from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.message import Message
from relayproxy.model.reply import Reply
from relayproxy.smtp.commands import mail_command, rcpt_command
from relayproxy.smtp.datastream import wire_chunks
from relayproxy.smtp.xclient import format_attributes, write_address

if TYPE_CHECKING:
    from relayproxy.delivery.upstream import Upstream

_SMALL = 262_144


class SmtpTransaction:
    """Implements ports.Transaction over a connection of `upstream`."""

    def __init__(self, upstream: "Upstream", client: Client, envelope: Envelope, size: int) -> None:
        self.per_recipient = upstream.per_recipient
        self._upstream = upstream
        self._client = client
        self._envelope = envelope
        self._size = size
        self._connection: Connection | None = None
        self._dead: Reply | None = None
        self._accepted = 0

    # -- recipients -----------------------------------------------------------------------------------------

    async def recipients(self, recipients: Sequence[Recipient]) -> list[Reply]:
        """Offer recipients; MAIL goes first with the first of them."""
        if self._dead is None and self._connection is None:
            answer = await self._begin(recipients)
        elif self._dead is None:
            answer = await self._more(recipients)
        else:
            answer = [self._dead] * len(recipients)
        self._accepted += sum(reply.ok for reply in answer)
        return answer

    async def _begin(self, recipients: Sequence[Recipient]) -> list[Reply]:
        upstream = self._upstream
        for again in (False, True):
            try:
                connection = await upstream.acquire(self._client, new=again)
            except ConnectError as error:
                return self._die(
                    f"Upstream {upstream.name} can't be reached now", str(error), len(recipients)
                )
            self._connection = connection
            missing = self._missing(connection)
            if missing is not None:
                self._give_back()
                self._dead = missing
                return [missing] * len(recipients)
            stale = not connection.fresh
            try:
                return await self._open(connection, recipients)
            except WireError as error:
                self._lose()
                told = any(reply.code != 421 for reply in error.replies)
                if again or not stale or told:
                    return self._die(f"Lost upstream {upstream.name}", str(error), len(recipients))
        raise AssertionError("unreachable")

    def _missing(self, connection: Connection) -> Reply | None:
        """What the message needs and this next hop can't take; the client will see it at its next EHLO."""
        envelope, known = self._envelope, connection.capabilities
        if envelope.smtputf8 and "SMTPUTF8" not in known:
            return Reply(451, "4.6.7", "The next hop does not take SMTPUTF8 now")
        if envelope.requiretls and ("REQUIRETLS" not in known or not connection.tls):
            return Reply(451, "4.7.10", "The next hop does not take REQUIRETLS now")
        return None

    async def _open(self, connection: Connection, recipients: Sequence[Recipient]) -> list[Reply]:
        """Send RSET (on a used connection), XFORWARD (where wanted), MAIL and RCPTs; raises WireError."""
        extensions = connection.capabilities.extensions
        setup = [] if connection.fresh else ["RSET"]
        if self._upstream.settings.send_client == "xforward" and "XFORWARD" in extensions:
            setup.append(self._xforward(extensions))
        setup.append(mail_command(self._envelope, self._size, extensions))
        offers = [rcpt_command(recipient, extensions) for recipient in recipients]
        replies = await self._run(connection, [*setup, *offers], stop_at=len(setup))
        mail = replies[len(setup) - 1]
        before = [reply for reply in replies[: len(setup) - 1] if not reply.ok]
        if before:
            raise WireError(f"a command before MAIL was answered {before[0]}")
        if not mail.ok:
            if mail.code < 400:
                raise WireError(f"MAIL was answered {mail}")
            self._dead = mail
            self._give_back()
            return [mail] * len(recipients)
        return [self._checked(reply) for reply in replies[len(setup) :]]

    async def _more(self, recipients: Sequence[Recipient]) -> list[Reply]:
        connection = self._connection
        assert connection is not None
        offers = [rcpt_command(recipient, connection.capabilities.extensions) for recipient in recipients]
        try:
            return [self._checked(reply) for reply in await self._run(connection, offers)]
        except WireError as error:
            self._lose()
            return self._die(f"Lost upstream {self._upstream.name}", str(error), len(recipients))

    async def _run(self, connection: Connection, commands: list[str], *, stop_at: int = 0) -> list[Reply]:
        """Send commands, at once where the next hop pipelines; without, stop after a refusal before `stop_at`."""
        wire, seconds = connection.wire, self._upstream.settings.timeouts.command
        if "PIPELINING" in connection.capabilities:
            wire.expect(len(commands))
            wire.write("\r\n".join((*commands, "")).encode())
            return await wire.replies(len(commands), seconds)
        replies: list[Reply] = []
        for number, command in enumerate(commands, 1):
            wire.expect(1)
            wire.write(f"{command}\r\n".encode())
            replies += await wire.replies(1, seconds)
            if number <= stop_at and not replies[-1].ok:
                return replies + [replies[-1]] * (stop_at - number)
        return replies

    @staticmethod
    def _checked(reply: Reply) -> Reply:
        """A RCPT is answered by 2yz, 4yz or 5yz; a 354 would be nonsense."""
        if reply.code // 100 == 3:
            raise WireError(f"RCPT was answered {reply}")
        return reply

    def _xforward(self, extensions: frozenset[str]) -> str:
        client = self._client
        known = {
            "NAME": client.ptr,
            "ADDR": write_address(client.ip),
            "PORT": str(client.port or ""),
            "PROTO": "SMTP" if client.proto == "SMTP" else "ESMTP",
            "HELO": client.helo,
            "SOURCE": "REMOTE",
        }
        return "XFORWARD " + format_attributes(
            {name: value for name, value in known.items() if f"XFORWARD {name}" in extensions}
        )

    # -- content --------------------------------------------------------------------------------------------

    async def send(self, lead: bytes, message: Message) -> list[Reply]:
        """Send the content and wait for the answer, however long the settings allow."""
        connection = self._connection
        if connection is None:
            dead = self._dead or Reply(451, "4.3.0", "The transaction has ended, try again later")
            return [dead] * self._final_count
        sent_all = False
        try:
            if "CHUNKING" in connection.capabilities:
                await self._chunk(connection, lead, message)
                sent_all = True
            else:
                refusal = await self._data(connection)
                if refusal is not None:
                    self._give_back()
                    return [refusal] * self._final_count
                sent_all = await self._content(connection, lead, message)
            replies = await connection.wire.replies(self._final_count, self._upstream.settings.timeouts.final)
        except WireError as error:
            self._lose()
            return self._after_loss(error, sent_all=sent_all)
        if any(reply.code // 100 == 3 for reply in replies):
            self._lose()
            return self._after_loss(WireError(f"the message was answered {replies[0]}"), sent_all=True)
        self._connection = None
        if any(reply.code == 421 for reply in replies):
            self._upstream.discard(connection)
        else:
            self._upstream.release(connection)
        return replies

    @property
    def _final_count(self) -> int:
        return self._accepted if self.per_recipient else 1

    async def _data(self, connection: Connection) -> Reply | None:
        """Say DATA; None when the next hop wants the content, else its refusal."""
        wire = connection.wire
        wire.expect(1)
        wire.write(b"DATA\r\n")
        reply = (await wire.replies(1, self._upstream.settings.timeouts.data))[0]
        if reply.code == 354:
            return None
        if reply.code < 400:
            raise WireError(f"DATA was answered {reply}")
        return reply

    async def _content(self, connection: Connection, lead: bytes, message: Message) -> bool:
        """Write the message and the final dot. Returns True: everything was handed to the socket."""
        wire = connection.wire
        wire.expect(self._final_count)
        if message.size <= _SMALL:
            wire.write(b"".join((lead, *wire_chunks(message), b".\r\n")))
            return True
        wire.write(lead)
        for chunk in wire_chunks(message):
            wire.write(chunk)
            await wire.drain(self._upstream.settings.timeouts.data)
        wire.write(b".\r\n")
        return True

    async def _chunk(self, connection: Connection, lead: bytes, message: Message) -> None:
        """Send everything as one last chunk: no dots, no ambiguity, one round trip less."""
        wire = connection.wire
        wire.expect(self._final_count)
        head = f"BDAT {len(lead) + message.size} LAST\r\n".encode() + lead
        if message.size <= _SMALL:
            wire.write(b"".join((head, *message.chunks())))
            return
        wire.write(head)
        for chunk in message.chunks():
            wire.write(chunk)
            await wire.drain(self._upstream.settings.timeouts.data)

    def _after_loss(self, error: WireError, *, sent_all: bool) -> list[Reply]:
        """The connection went while the content was on its way: tell what is known, never a made-up 5yz."""
        refusals = [reply for reply in error.replies if reply.code >= 400]
        if refusals and len(error.replies) >= self._final_count:
            return list(error.replies[: self._final_count])
        if sent_all:
            self._upstream.in_doubt(self._client, str(error))
        else:
            self._upstream.trouble(self._client, str(error))
        return [
            Reply(451, "4.4.2", f"Lost upstream {self._upstream.name}, try again later")
        ] * self._final_count

    # -- ending ---------------------------------------------------------------------------------------------

    def _die(self, what: str, why: str, count: int) -> list[Reply]:
        """No way on: every recipient, now and later in this transaction, hears the same 451."""
        self._upstream.trouble(self._client, why)
        self._dead = Reply(451, "4.4.1", f"{what}, try again later")
        return [self._dead] * count

    def _lose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.wire.fail("out of step")
            self._upstream.discard(connection)

    def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._upstream.release(connection)

    def abort(self) -> None:
        """End without a message; the next user of the connection begins with RSET."""
        if self._connection is not None:
            if self._connection.wire.busy:
                self._lose()
            else:
                self._give_back()
        self._dead = self._dead or Reply(451, "4.3.0", "The transaction has ended, try again later")
