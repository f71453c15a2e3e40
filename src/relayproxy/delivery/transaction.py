"""One mail transaction with a next hop, pipelined where it allows (RFC 2920), by BDAT where it can (RFC 3030).

Every reply is kept for itself. Trouble with the connection becomes a 4yz reply; before the first octet of a
transaction a stale kept connection is replaced once; after the final dot nothing is ever sent again.
"""

from collections.abc import Awaitable, Sequence
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


def _refusal(reply: Reply, what: str) -> None:
    """Make sure that an answer that isn't the expected one is a refusal. Raises WireError."""
    if reply.code < 400:
        raise WireError(f"{what} was answered {reply}")


class SmtpTransaction:
    """Implements ports.Transaction over a connection of `upstream`."""

    queued = False

    def __init__(self, upstream: "Upstream", client: Client, envelope: Envelope, size: int) -> None:
        self.per_recipient = upstream.per_recipient
        self._upstream = upstream
        self._client = client
        self._envelope = envelope
        self._size = size
        self._connection: Connection | None = None
        self._dead: Reply | None = None
        self._accepted = 0
        self._setup = 1

    # -- recipients -----------------------------------------------------------------------------------------

    async def recipients(self, recipients: Sequence[Recipient]) -> list[Reply]:
        """Offer recipients; MAIL goes first with the first of them."""
        if self._dead is not None:
            return [self._dead] * len(recipients)
        connection = self._connection
        if connection is None:
            connection = self._upstream.kept(self._client)
            envelope = self._envelope
            if connection is None or envelope.smtputf8 or envelope.requiretls or envelope.tls_onward:
                answer = await self._begin(connection, recipients)
            else:
                # The usual case, with as few steps as can be: a kept connection, and nothing special asked of it.
                self._connection = connection
                try:
                    answer = self._opened(connection, await self._opening(connection, recipients), recipients)
                except WireError as error:
                    answer = self._failed(error, recipients, fresh=False) or await self._begin(
                        None, recipients
                    )
        else:
            answer = await self._more(recipients)
        for reply in answer:
            if reply.code // 100 == 2:
                self._accepted += 1
        return answer

    async def _begin(self, connection: Connection | None, recipients: Sequence[Recipient]) -> list[Reply]:
        """Find a connection and open the transaction on it; a stale kept one is replaced once."""
        upstream = self._upstream
        while True:
            fresh = connection is None
            if connection is None:
                try:
                    connection = await upstream.connect(self._client)
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
            try:
                return self._opened(connection, await self._opening(connection, recipients), recipients)
            except WireError as error:
                answer = self._failed(error, recipients, fresh=fresh)
                if answer is not None:
                    return answer
                connection = None

    def _failed(
        self, error: WireError, recipients: Sequence[Recipient], *, fresh: bool
    ) -> list[Reply] | None:
        """The connection went before the recipients were answered; None if another one is to be tried."""
        self._lose()
        answers = error.replies[self._setup - 1 :]
        if not fresh and all(reply.code == 421 for reply in answers):
            return None
        if answers and answers[0].code >= 400:
            self._upstream.trouble(self._client, str(error))
            self._dead = answers[0]
            return [answers[0]] * len(recipients)
        return self._cut_short(answers[1:], str(error), len(recipients))

    def _missing(self, connection: Connection) -> Reply | None:
        """What the message needs and this next hop can't take; the client will see it at its next EHLO."""
        envelope, known = self._envelope, connection.capabilities
        if envelope.smtputf8 and "SMTPUTF8" not in known:
            return Reply(451, "4.6.7", "The next hop does not take SMTPUTF8 now")
        if envelope.requiretls and ("REQUIRETLS" not in known or not connection.tls):
            return Reply(451, "4.7.10", "The next hop does not take REQUIRETLS now")
        if envelope.tls_onward and not connection.tls:
            return Reply(451, "4.7.10", "The next hop does not take TLS now, which this message needs")
        return None

    def _opening(self, connection: Connection, recipients: Sequence[Recipient]) -> Awaitable[list[Reply]]:
        """Send RSET (on a used connection), XFORWARD (where wanted), MAIL and RCPTs; raises WireError."""
        extensions = connection.capabilities.extensions
        commands = [] if connection.fresh else ["RSET"]
        if self._upstream.settings.send_client == "xforward" and "XFORWARD" in extensions:
            commands.append(self._xforward(extensions))
        commands.append(mail_command(self._envelope, self._size, extensions))
        setup = self._setup = len(commands)
        commands += [rcpt_command(recipient, extensions) for recipient in recipients]
        if "PIPELINING" not in extensions:
            return self._one_by_one(connection, commands, stop_at=setup)
        commands.append("")
        return connection.wire.ask(
            "\r\n".join(commands).encode(), len(commands) - 1, self._upstream.settings.timeouts.command
        )

    def _opened(
        self, connection: Connection, replies: list[Reply], recipients: Sequence[Recipient]
    ) -> list[Reply]:
        """Return what was said of the recipients; raises WireError where the connection can't be trusted."""
        setup = self._setup
        mail = replies[setup - 1]
        for reply in replies[: setup - 1]:
            if reply.code // 100 != 2:
                raise WireError(f"a command before MAIL was answered {reply}")
        if mail.code == 421 and not connection.fresh:
            # The next hop was about to hang up, whatever was asked: a matter of this connection, not of this mail.
            raise WireError(f"MAIL was answered {mail}", tuple(replies[:setup]))
        if mail.code // 100 != 2:
            _refusal(mail, "MAIL")
            self._dead = mail
            self._give_back()
            return [mail] * len(recipients)
        return [self._checked(reply) for reply in replies[setup:]]

    async def _more(self, recipients: Sequence[Recipient]) -> list[Reply]:
        connection = self._connection
        assert connection is not None
        extensions = connection.capabilities.extensions
        offers = [rcpt_command(recipient, extensions) for recipient in recipients]
        try:
            if "PIPELINING" in extensions:
                data = "\r\n".join((*offers, "")).encode()
                replies = await connection.wire.ask(
                    data, len(offers), self._upstream.settings.timeouts.command
                )
            else:
                replies = await self._one_by_one(connection, offers)
            return [self._checked(reply) for reply in replies]
        except WireError as error:
            self._lose()
            return self._cut_short(error.replies, str(error), len(recipients))

    async def _one_by_one(
        self, connection: Connection, commands: list[str], *, stop_at: int = 0
    ) -> list[Reply]:
        """Send commands to a next hop that doesn't pipeline; stop after a refusal before `stop_at`."""
        replies: list[Reply] = []
        for number, command in enumerate(commands, 1):
            try:
                replies += await connection.wire.ask(
                    f"{command}\r\n".encode(), 1, self._upstream.settings.timeouts.command
                )
            except WireError as error:
                raise WireError(str(error), (*replies, *error.replies)) from error
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
        wire, times = connection.wire, self._upstream.settings.timeouts
        sent_all = False
        try:
            if "CHUNKING" in connection.capabilities:
                head = f"BDAT {len(lead) + message.size} LAST\r\n".encode() + lead
                pieces, end = message.chunks(), b""
            else:
                reply = (await wire.ask(b"DATA\r\n", 1, times.data))[0]
                if reply.code != 354:
                    _refusal(reply, "DATA")
                    self._give_back()
                    return [reply] * self._final_count
                head, pieces, end = lead, wire_chunks(message), b".\r\n"
            if message.size <= _SMALL:
                sent_all = True
                replies = await wire.ask(b"".join((head, *pieces, end)), self._final_count, times.final)
            else:
                wire.expect(self._final_count)
                wire.write(head)
                for piece in pieces:
                    wire.write(piece)
                    await wire.drain(times.data)
                wire.write(end)
                sent_all = True
                replies = await wire.replies(times.final)
        except WireError as error:
            self._lose()
            return self._after_loss(error, sent_all=sent_all)
        for reply in replies:
            if reply.code < 400 and not reply.ok:
                self._lose()
                return self._after_loss(WireError(f"the message was answered {reply}"), sent_all=True)
        self._connection = None
        if replies[0].code == 421:
            self._upstream.discard(connection)
        else:
            self._upstream.release(connection)
        return replies

    @property
    def _final_count(self) -> int:
        return self._accepted if self.per_recipient else 1

    def _after_loss(self, error: WireError, *, sent_all: bool) -> list[Reply]:
        """The connection went while the content was on its way: tell what is known, never a made-up 5yz."""
        known = [reply for reply in error.replies if reply.ok or reply.code >= 400]
        missing = self._final_count - len(known)
        if missing <= 0:
            return known[: self._final_count]
        if sent_all:
            self._upstream.in_doubt(self._client, str(error))
        else:
            self._upstream.trouble(self._client, str(error))
        lost = Reply(451, "4.4.2", f"Lost upstream {self._upstream.name}, try again later")
        return [*known, *[lost] * missing]

    # -- ending ---------------------------------------------------------------------------------------------

    def _die(self, what: str, why: str, count: int) -> list[Reply]:
        """No way on: every recipient, now and later in this transaction, hears the same 451."""
        self._upstream.trouble(self._client, why)
        self._dead = Reply(451, "4.4.1", f"{what}, try again later")
        return [self._dead] * count

    def _cut_short(self, answers: Sequence[Reply], why: str, count: int) -> list[Reply]:
        """The connection went while recipients were offered: who was refused before that stays refused."""
        rest = self._die(f"Lost upstream {self._upstream.name}", why, count)
        return [answer if answer.code >= 400 else rest[0] for answer in answers[:count]] + rest[
            len(answers) :
        ]

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
