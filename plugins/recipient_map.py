"""Refuse unknown users at RCPT, by a text file of those that exist; a changed file is read again.

    - recipient_map: {file: recipients.txt, separator: "+"}

The file has one address a line; `@example.net` takes in a whole domain, `#` begins a comment. Domains that the
file doesn't mention are not judged. Write a new file beside it and rename that into place, so that no half of
one is ever read. While the file is missing or empty, the mail is deferred, never refused.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

from relayproxy.api import (
    App,
    Direction,
    Mistake,
    Opinion,
    Plugin,
    Recipient,
    Settings,
    Setup,
    hook,
    printable,
    reject,
    to_a_label,
)


class RecipientMapSettings(Settings):
    """Where the addresses are and how they are compared."""

    file: Path
    """The file, from the folder of the configuration."""
    separator: str = ""
    """What begins an extension that is not compared: with `+`, ana+news@ is ana@."""


class RecipientMap(Plugin[RecipientMapSettings]):
    """Keep the file's addresses in memory, and a stamp of the file that they came from."""

    name = "recipient_map"
    settings = RecipientMapSettings
    after = ()
    directions = frozenset({Direction.INBOUND, Direction.INTERNAL})

    def check(self, setup: Setup) -> Iterator[Mistake]:
        """Say before the start what `startup` would say: the file can't be read."""
        file = setup.folder / self.options.file
        try:
            file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            yield Mistake(f"{file}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}", ("file",))

    @hook
    async def startup(self, app: App) -> None:
        """Read the file; without it the worker doesn't start."""
        self._file = app.folder / self.options.file
        self._stamp = (0, 0, 0)
        await self._refresh()

    @hook
    async def rcpt(self, rcpt: Recipient) -> Opinion:
        """Refuse who isn't there; the postmaster always is (RFC 5321 section 4.5.1)."""
        await self._refresh()
        domain = rcpt.address.ascii_domain
        local = rcpt.address.local.lower()
        if self.options.separator:
            local = local.split(self.options.separator)[0] or local
        if domain not in self._domains or local == "postmaster":
            return None
        if self._known & {f"{local}@{domain}", f"@{domain}"}:
            return None
        return reject(f"There is no {printable(local, 64)} at {printable(domain, 255)}", status="5.1.1")

    async def _refresh(self) -> None:
        facts = self._file.stat()
        stamp = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
        if stamp != self._stamp:
            text = await asyncio.to_thread(self._file.read_text, "utf-8")
            lines = (line.partition("#")[0].strip().lower() for line in text.splitlines())
            pairs = [
                (local, to_a_label(domain)) for local, _, domain in (x.rpartition("@") for x in lines if x)
            ]
            self._known = frozenset(f"{local}@{domain}" for local, domain in pairs)
            self._domains = frozenset(domain for _, domain in pairs)
            self._stamp = stamp
        if not self._known:
            raise ValueError(f"{self._file} lists nobody")
