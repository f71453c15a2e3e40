"""Signers, verifiers and DNS for one session of tests: a domain with keys, an unbound, and a Postfix with milters.

Everything is started once, when the first test asks for it. Mail to one port of the Postfix passes one milter and ends
in a mailbox that nobody else uses, with what the milter added.
"""

import asyncio
import shutil
from collections.abc import Iterator
from typing import Any

from tests.servers.client import Client
from tests.servers.opendkim import OpenDkim
from tests.servers.postfix import Postfix
from tests.servers.process import public_folder, wait_for
from tests.servers.rspamd import Rspamd
from tests.servers.unbound import Unbound

from relayproxy.mailauth.authres import AuthenticationResults, parse
from relayproxy.mailauth.dkim_keys import SigningKey, new_ed25519_key, new_rsa_key
from relayproxy.model.message import Message

DOMAIN = "example.org"
FORWARDER = "example.com"  # seals what it passes on
CLIENT = "127.0.0.9"  # a stranger to relayproxy, a permitted sender of the domain
_MAILBOXES = 80


class Authentication:
    """`unbound`, `postfix` and what stands behind the ports that it is asked for by name.

    Keys are in `keys`, as `dkim_sign` wants them: rsa and ed of DOMAIN are relayproxy's, arc is FORWARDER's.
    """

    def __init__(self) -> None:
        self.folder = public_folder("auth")
        self.keys = self.folder / "keys"
        self._zone: dict[tuple[str, str], Any] = {
            (DOMAIN, "TXT"): "v=spf1 ip4:127.0.0.9 -all",
            (f"_dmarc.{DOMAIN}", "TXT"): "v=DMARC1; p=reject; adkim=s; aspf=s",
            ("client.example.org", "TXT"): "v=spf1 ip4:127.0.0.9 -all",
        }
        self._started: list[Any] = []
        self._mailboxes = iter(f"u{number}" for number in range(_MAILBOXES))

    def _key(self, domain: str, selector: str, key: SigningKey) -> None:
        """Write a key where relayproxy finds it, and publish it."""
        path = (self.keys if selector in ("rsa", "ed") else self.folder) / f"{domain}.{selector}.pem"
        path.touch(mode=0o644)
        path.write_bytes(key.pem())
        self._zone[f"{selector}._domainkey.{domain}", "TXT"] = key.record()

    async def start(self) -> None:
        self.keys.mkdir()
        self._key(DOMAIN, "rsa", new_rsa_key())
        self._key(DOMAIN, "ed", new_ed25519_key())
        self._key(DOMAIN, "peer", new_rsa_key())
        self._key(DOMAIN, "peer-ed", new_ed25519_key())
        self._key(FORWARDER, "arc", new_rsa_key())
        self._key(FORWARDER, "peer", new_rsa_key())
        self.unbound = await self._run(Unbound(self._zone))
        dns = self.unbound.port
        checks = await self._run(OpenDkim(dns))
        signers = {"simple": ("simple/simple", "peer"), "mixed": ("relaxed/simple", "peer")}
        milters = {"opendkim-verifies": checks.port}
        for name, (form, selector) in {"relaxed": ("relaxed/relaxed", "peer"), **signers}.items():
            signer = OpenDkim(dns)
            self._started.append(signer)
            await signer.start_signing(
                DOMAIN, selector, self.folder / f"{DOMAIN}.{selector}.pem", canonicalization=form
            )
            milters[f"opendkim-{name}"] = signer.port
        signer = OpenDkim(dns)
        self._started.append(signer)
        await signer.start_signing(
            DOMAIN, "peer-ed", self.folder / f"{DOMAIN}.peer-ed.pem", algorithm="ed25519-sha256"
        )
        milters["opendkim-ed25519"] = signer.port
        rspamd = await self._run(Rspamd(dns, DOMAIN, "peer", self.folder / f"{DOMAIN}.peer.pem"))
        sealer = await self._run(
            Rspamd(dns, FORWARDER, "peer", self.folder / f"{FORWARDER}.peer.pem", seals=True)
        )
        milters |= {"rspamd": rspamd.port, "rspamd-seals": sealer.port}
        self.rspamd = rspamd
        self.postfix = await self._run(
            Postfix(
                users=tuple(f"u{number}" for number in range(_MAILBOXES)),
                services={
                    name: {"smtpd_milters": f"inet:127.0.0.1:{port}", "milter_default_action": "tempfail"}
                    for name, port in milters.items()
                },
            )
        )

    async def _run(self, server: Any) -> Any:
        self._started.append(server)
        await server.start()
        return server

    async def stop(self) -> None:
        """End all servers and remove their folders."""
        await asyncio.gather(*(server.stop() for server in reversed(self._started)))
        shutil.rmtree(self.folder, ignore_errors=True)

    def address(self, milter: str) -> str:
        """Where mail goes that shall pass `milter`."""
        return f"127.0.0.1:{self.postfix.port_of(milter)}"

    def new_mailbox(self) -> str:
        """A user of example.net that no other test uses."""
        return next(self._mailboxes)

    async def arrived(self, user: str) -> bytes:
        """The one message of a mailbox, once it is there."""
        await wait_for(lambda: self.postfix.delivered(user), f"mail for {user}")
        (message,) = self.postfix.delivered(user)
        return message

    async def through(self, milter: str, message: bytes, source: str = CLIENT) -> bytes:
        """Send a message to a port of the Postfix and return what arrived."""
        user = self.new_mailbox()
        async with await Client.open(self.postfix.port_of(milter), source=source) as client:
            options = "" if message.isascii() else "BODY=8BITMIME"
            answer = await client.message(message, f"a@{DOMAIN}", (f"{user}@example.net",), options)
        assert answer.code == 250, answer
        return await self.arrived(user)


def results(message: bytes, name: str, method: str) -> list[tuple[str, dict[str, str]]]:
    """What the fields of the authserv-id `name` say of a method: results with their properties."""
    return [
        (one.result, dict(one.props))
        for field in _fields(message)
        if field.authserv_id == name
        for one in field.results
        if one.method == method
    ]


def _fields(message: bytes) -> Iterator[AuthenticationResults]:
    for field in Message.from_bytes(message).all("Authentication-Results"):
        yield parse(field.value)
