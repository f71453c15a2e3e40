"""suppression: recipients that get no more mail are refused, or their mail is dropped, at RCPT.

The list is filled by the plugin bounces, by `relayproxy suppression`, and here by those who unsubscribe. Must not know
how somebody is told apart from others, nor how a wish arrives.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from relayproxy.api import (
    App,
    Direction,
    DropRecipient,
    Edits,
    ListFault,
    Mail,
    Mistake,
    Opinion,
    Plugin,
    Recipient,
    Setup,
    Suppressed,
    Unsubscription,
    discard,
    hook,
    reject,
)
from relayproxy.builtin._campaign import METHOD, KeyedSettings, keys_of
from relayproxy.builtin._remote_list import RemoteList
from relayproxy.model.suppressed import scopes_of

_SWEEP = 3600.0


class SuppressionSettings(KeyedSettings):
    """Where the list is, and what happens to mail for those who are on it."""

    file: str = Field("suppression.db", min_length=1)
    """The list, an SQLite file; relative paths start at the folder of the configuration. It is made if it isn't there. Not
    where `suppression` names one for all."""
    action: Literal["refuse", "drop"] = "refuse"
    """`refuse`: 550 5.7.1 at RCPT. `drop`: the client hears 250 and the mail goes nowhere."""
    text: str = "This recipient takes no more mail from us"
    """What a refusal says; printable ASCII."""

    @field_validator("text")
    @classmethod
    def _printable(cls, text: str) -> str:
        if not (text and len(text) <= 300 and text.isascii() and text.isprintable()):
            raise ValueError("the text is 1 to 300 printable ASCII characters")
        return text


class Suppression(Plugin[SuppressionSettings]):
    """Looks every recipient of outgoing mail up."""

    name = "suppression"
    settings = SuppressionSettings
    after = ("campaign",)
    directions = frozenset({Direction.OUTBOUND, Direction.INTERNAL})

    def check(self, setup: Setup) -> Iterator[Mistake]:
        """The file is made at start, its folder's parent has to be there."""
        path = store_path(setup.folder, self.options.file)
        if path.is_dir() or not path.parent.is_dir():
            yield Mistake(
                f"{path} can't be a file: {path.parent} is no folder, or it is one itself", ("file",)
            )

    @hook
    async def startup(self, app: App) -> None:
        """Open the list. Raises ListFault."""
        self._clock = app.clock
        self._store = await asyncio.to_thread(app.suppression, store_path(app.folder, self.options.file))
        self._remote = RemoteList(self._store, self.log) if self._store.remote else None
        self._sweeper = asyncio.create_task(self._sweep())

    @hook
    async def shutdown(self) -> None:
        """Close the list."""
        self._sweeper.cancel()
        await asyncio.gather(self._sweeper, return_exceptions=True)
        if self._remote is not None:
            self._remote.close()
        await asyncio.to_thread(self._store.close)

    @hook
    async def rcpt(self, mail: Mail, rcpt: Recipient) -> Opinion:
        """Refuse or drop what is for somebody on the list; note it as "suppression". Raises ListFault and Unavailable."""
        found = await self._found(mail, rcpt)
        if found is None:
            return None
        mail.note("suppression", "hit", reason=found.reason, kind=found.class_, scope=found.scope)
        return self._opinion(found)

    @hook
    async def message(self, mail: Mail) -> Opinion:
        """Look again where only the header has told whose mail it is: refuse or drop what is for nobody else."""
        found = await self._late(mail)
        if not found or len(found) < len(mail.envelope.recipients):
            return None
        return self._opinion(found[0][1])

    @hook
    async def before_forward(self, mail: Mail, route: str) -> Edits:  # noqa: ARG002  (a hook's arguments)
        """Take out those who are on the list by what the header told, when RCPT had its answer: others get the message."""
        edits = []
        for recipient, found in await self._late(mail):
            mail.note("suppression", "hit", reason=found.reason, kind=found.class_, scope=found.scope)
            self.log.info("%s: not sent to %s (%s)", mail.id, recipient.address, found.scope)
            edits.append(DropRecipient(recipient.address))
        return edits

    async def _late(self, mail: Mail) -> list[tuple[Recipient, Suppressed]]:
        """Return who is on the list now, if the mail has other scopes than at RCPT."""
        told = mail.finding(METHOD)
        if told is None or "header" not in told.props:
            return []
        pairs = [(recipient, await self._found(mail, recipient)) for recipient in mail.envelope.recipients]
        return [(recipient, found) for recipient, found in pairs if found is not None]

    async def _found(self, mail: Mail, rcpt: Recipient) -> Suppressed | None:
        scopes = scopes_of(*keys_of(self.options, mail))
        address, now = str(rcpt.address), self._clock.time()
        if self._remote is None:
            return self._store.find(address, scopes, now)
        return await self._remote.find(address, scopes, now)

    def _opinion(self, found: Suppressed) -> Opinion:
        reason = f"suppression: {found.class_} ({found.scope})"
        return discard(reason) if self.options.action == "drop" else reject(self.options.text, reason=reason)

    @hook
    async def unsubscribed(self, wish: Unsubscription) -> None:
        """Put who has unsubscribed on the list, for ever. Raises ListFault."""
        line = Suppressed(
            wish.recipient,
            wish.scope,
            "unsubscribed",
            f"of {wish.list_id}"[:500],
            self._clock.time(),
            None,
            "list_unsubscribe",
        )
        await asyncio.to_thread(self._store.add, [line])
        if self._remote is not None:
            self._remote.forget()

    async def _sweep(self) -> None:
        """Remove now and then what has expired; a fault here decides nothing, as expired lines are not looked at."""
        while True:
            try:
                await asyncio.to_thread(self._store.sweep, self._clock.time())
            except ListFault as error:
                self.log.warning("the list can't be swept: %s", error)
            await asyncio.sleep(_SWEEP)


def store_path(folder: Path, file: str) -> Path:
    """Return the path that the settings mean."""
    return folder / Path(file).expanduser()
