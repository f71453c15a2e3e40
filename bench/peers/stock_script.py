"""An SMTP relay as it is written in an afternoon; run with the port to listen on and the port to send to."""

import signal
import sys

import aiosmtplib
from aiosmtpd.controller import Controller

LISTEN, UPSTREAM = int(sys.argv[1]), int(sys.argv[2])


class Relay:
    async def handle_DATA(self, _server, _session, envelope):  # noqa: N802 - aiosmtpd calls it so
        try:
            await aiosmtplib.send(
                envelope.content,
                sender=envelope.mail_from,
                recipients=envelope.rcpt_tos,
                hostname="127.0.0.1",
                port=UPSTREAM,
            )
        except aiosmtplib.SMTPException as error:
            return f"451 {error}"
        return "250 OK"


controller = Controller(Relay(), hostname="127.0.0.1", port=LISTEN)
controller.start()
signal.sigwait({signal.SIGINT, signal.SIGTERM})
controller.stop()
