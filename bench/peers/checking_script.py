"""stock_script.py with the checks that authheaders offers; run with the port to listen on and the port to send to."""

import asyncio
import signal
import sys
from functools import cache

import aiosmtplib
from aiosmtpd.controller import Controller
from authheaders import authenticate_message, dmarc_lookup

LISTEN, UPSTREAM = int(sys.argv[1]), int(sys.argv[2])

# As it comes, it reads its list of public suffixes again for every message, which takes 160 ms.
dmarc_lookup.get_org_domain_from_suffix_list = cache(dmarc_lookup.get_org_domain_from_suffix_list)


class Relay:
    async def handle_DATA(self, _server, session, envelope):  # noqa: N802 - aiosmtpd calls it so
        # It asks DNS while it runs, so it has a thread.
        field = await asyncio.to_thread(
            authenticate_message,
            envelope.content,
            "script.bench.example",
            spf=True,
            dkim=True,
            dmarc=True,
            ip=session.peer[0],
            mail_from=envelope.mail_from,
            helo=session.host_name,
        )
        try:
            await aiosmtplib.send(
                field.encode().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b"\r\n" + envelope.content,
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
