"""milter: runs mail filters that were written for Sendmail and Postfix, such as OpenDKIM, as a step of the pipeline.

Each milter is told the whole transaction when the message has arrived, or when it is about to be forwarded; what it
refuses is refused, what it wants changed becomes edits. Must not know the protocol.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from relayproxy.api import (
    Action,
    App,
    Edit,
    Edits,
    Mail,
    Message,
    Opinion,
    Origin,
    Plugin,
    ServiceError,
    Settings,
    Verdict,
    hook,
)
from relayproxy.builtin._changes import Kept, weight
from relayproxy.builtin._milter_talk import Said, Talk
from relayproxy.builtin._remote import Breaker, Service, Where, connected, service_of
from relayproxy.model.edits import apply_to_envelope, apply_to_message
from relayproxy.model.endpoint import Endpoint


class MilterServer(Settings):
    """One milter."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")
    """What it is called in the log, in findings and in metrics."""
    address: Where
    """Where it listens: `127.0.0.1:8891` or `unix:/run/opendkim/opendkim.sock`."""
    at: Literal["message", "before_forward"] = "message"
    """When it is asked. `message`: as soon as the message is here, and it may refuse it. `before_forward`: when all other
    plugins have made their changes, which is what signing wants; it can't refuse then."""


class MilterSettings(Settings):
    """Which milters there are."""

    milters: tuple[MilterServer, ...] = Field(min_length=1, max_length=16)
    """The milters, in the order in which they are asked; each sees what those before it changed."""
    breaker: Breaker = Breaker()
    """When a milter that fails is left alone."""

    @field_validator("milters")
    @classmethod
    def _names_differ(cls, milters: tuple[MilterServer, ...]) -> tuple[MilterServer, ...]:
        names = [milter.name for milter in milters]
        if len(set(names)) < len(names):
            raise ValueError("two milters have one name")
        return milters


class Milter(Plugin[MilterSettings]):
    """Ask milters, and make the changes that they want."""

    name = "milter"
    settings = MilterSettings
    default_timeout = 30.0
    _services: dict[str, Service]
    _kept: Kept[Sequence[Edit]]
    _hostname: str = ""

    @hook
    def startup(self, app: App) -> None:
        """Meet the milters."""
        self._hostname = app.hostname
        self._kept = Kept(app.clock.monotonic)
        self._services = {
            one.name: service_of(self, self.options.breaker, app, f"milter {one.name}")
            for one in self.options.milters
        }

    @hook
    async def message(self, mail: Mail) -> Opinion:
        """Ask the milters of this stage; the first that refuses is the last that is asked."""
        servers = [one for one in self.options.milters if one.at == "message"]
        if not servers:
            return None
        self._kept.put(mail, ())
        verdict, edits = await self._asked(servers, mail)
        self._kept.put(mail, edits, weight(edits))
        return verdict

    @hook
    async def before_forward(self, mail: Mail) -> Edits:
        """Return the edits that the milters asked for at `message`, and ask those of this stage.

        About what a human has released, those of `message` are asked again; that they refuse it doesn't count any more.
        """
        if mail.origin is Origin.RELEASE:
            await self.message(mail)
        edits: list[Edit] = []
        if any(one.at == "message" for one in self.options.milters):
            edits += self._kept.get(mail, self.name) or ()
        servers = [one for one in self.options.milters if one.at == "before_forward"]
        if not servers:
            return edits
        verdict, more = await self._asked(servers, _edited(mail, edits))
        if verdict is not None:
            raise ServiceError(f"milter: too late to {verdict.action.name.lower()}: {verdict.reason}")
        return [*edits, *more]

    @hook
    def after_forward(self, mail: Mail) -> None:
        """Forget the message."""
        self._kept.drop(mail)

    async def _asked(self, servers: Sequence[MilterServer], mail: Mail) -> tuple[Verdict | None, list[Edit]]:
        """Return the verdict and all the edits. Raises ServiceError."""
        edits: list[Edit] = []
        held: Verdict | None = None
        for server in servers:
            said = await self._ask(server, _edited(mail, edits))
            verdict = said.verdict
            word = verdict.action.name.lower() if verdict else "accept"
            mail.note(self.name, "hit" if verdict else "miss", milter=server.name, action=word)
            if verdict is not None and verdict.action is not Action.HOLD:
                return verdict, []
            held = held or verdict
            edits += said.edits
        return held, edits

    async def _ask(self, server: MilterServer, mail: Mail) -> Said:
        place: Endpoint = server.address

        async def talk() -> Said:
            async with connected(place) as (reader, writer):
                return await Talk(reader, writer, mail, self._hostname).held()

        return await self._services[server.name].ask(talk)


def _edited(mail: Mail, edits: Sequence[Edit]) -> Mail:
    """Return a view of the mail with the edits made."""
    if not edits:
        return mail
    seen = mail.view()
    message: Message = apply_to_message(mail.message, edits)
    seen.message, seen.envelope = message, apply_to_envelope(mail.envelope, edits)
    return seen
