"""Keep a sample of messages as they arrived, so that `relayproxy replay FOLDER --history` can play them whole.

    - keep_sample: {folder: /var/lib/relayproxy/sample, share: 0.01, most: 1000, largest: 1000000}

Each is a file named after the id of the message; beyond `most` the oldest go. Only the owner may read them: they are
mail. What can't be written is named in the log, and the mail goes on.
"""

import asyncio
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from relayproxy.api import App, Mail, Mistake, Plugin, Settings, Setup, hook


class KeepSampleSettings(Settings):
    """Where to keep how much."""

    folder: Path
    """The folder, from that of the configuration."""
    share: float = Field(default=0.01, gt=0, le=1)
    """The share of messages: 0.01 is one in a hundred."""
    most: int = Field(default=1000, ge=1)
    """Files that are kept."""
    largest: int = Field(default=1_000_000, ge=1)
    """Octets of the largest message that is kept."""


class KeepSample(Plugin[KeepSampleSettings]):
    """Choose by the id, so that the choice is the same whoever makes it."""

    name = "keep_sample"
    settings = KeepSampleSettings
    after = ()

    def check(self, setup: Setup) -> Iterator[Mistake]:
        """The files come by themselves; their folder doesn't."""
        folder = setup.folder / self.options.folder
        if not folder.is_dir():
            yield Mistake(f"there is no folder {folder}", ("folder",))

    @hook
    def startup(self, app: App) -> None:
        """Find the folder."""
        self._folder = app.folder / self.options.folder

    @hook
    async def message(self, mail: Mail) -> None:
        """Keep the message if it is chosen; never decides anything."""
        chosen = zlib.crc32(mail.id.encode()) < self.options.share * 2**32
        if not chosen or mail.message.size > self.options.largest:
            return
        octets = bytes(mail.message)  # now: the content may be gone when the thread begins
        try:
            await asyncio.to_thread(self._keep, mail.id, octets)
        except OSError as error:
            self.log.warning("%s is not in the sample: %s", mail.id, error)

    def _keep(self, identity: str, octets: bytes) -> None:
        part = self._folder / f"{identity}.part"
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(octets)
        part.rename(self._folder / f"{identity}.eml")
        for old in sorted(self._folder.glob("*.eml"), key=_age)[: -self.options.most]:
            old.unlink(missing_ok=True)


def _age(file: Path) -> float:
    """When it was written; one that another worker has just deleted is the oldest."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0
