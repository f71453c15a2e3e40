"""A plugin that asks several scripts, one after another: what `exec` and `http` share.

Must not know how a script is reached.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Generic, Literal, TypeVar

from pydantic import Field, field_validator

from relayproxy.api import (
    Action,
    App,
    Edit,
    Edits,
    Finding,
    Mail,
    Opinion,
    Origin,
    Plugin,
    Recipient,
    Settings,
    Verdict,
    hook,
)
from relayproxy.builtin import _script
from relayproxy.builtin._changes import Kept, weight
from relayproxy.builtin._remote import Breaker, Service, service_of

ON_THE_LOOP: Final = 65_536
"""Octets of JSON that are written or read at once; more would keep other sessions waiting."""

Stage = Literal["mail", "rcpt", "message"]


class Script(Settings):
    """What every script has."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")
    """What it is called in the log, in findings and in metrics."""
    at: Stage = "message"
    """When it is asked: `mail`, `rcpt` (for each recipient), or `message`. Only then may it want edits."""
    send: Literal["headers", "message"] = "headers"
    """How much of the message it is given at `message`: the header alone, or all of it."""
    max_size: int = Field(10_000_000, gt=0)
    """Of a message with more octets than that it is given the header alone."""


class ScriptsSettings(Settings):
    """What both kinds of plugin have."""

    breaker: Breaker = Breaker()
    """When a script that fails is left alone. Each has a breaker of its own."""

    @field_validator("scripts", check_fields=False)
    @classmethod
    def _names_differ(cls, scripts: tuple[Script, ...]) -> tuple[Script, ...]:
        if len({one.name for one in scripts}) < len(scripts):
            raise ValueError("two scripts have one name")
        return scripts


S = TypeVar("S", bound=ScriptsSettings)
C = TypeVar("C", bound=Script)


class Asking(Plugin[S], Generic[S, C]):
    """Asks the scripts of `scripts()`; a subclass says how, in `reach`."""

    _services: dict[str, Service]
    _kept: Kept[Sequence[Edit]]

    def scripts(self) -> Sequence[C]:
        """Return the scripts in the order in which they are asked."""
        raise NotImplementedError

    async def reach(self, script: C, mail: Mail, recipient: Recipient | None) -> bytes:
        """Return what a script answers. Raises ServiceError, OSError and EOFError."""
        raise NotImplementedError

    def begin(self, app: App) -> None:
        """Do what belongs into startup."""
        self._kept = Kept(app.clock.monotonic)
        self._services = {
            one.name: service_of(self, self.options.breaker, app, f"{self.name} {one.name}")
            for one in self.scripts()
        }

    @hook
    async def mail(self, mail: Mail) -> Opinion:
        """Ask the scripts of this stage."""
        return (await self._asked("mail", mail, None))[0]

    @hook
    async def rcpt(self, mail: Mail, rcpt: Recipient) -> Opinion:
        """Ask the scripts of this stage about a recipient."""
        return (await self._asked("rcpt", mail, rcpt))[0]

    @hook
    async def message(self, mail: Mail) -> Opinion:
        """Ask the scripts of this stage, and keep the edits that they want."""
        self._kept.put(mail, ())
        verdict, edits = await self._asked("message", mail, None)
        self._kept.put(mail, edits, weight(edits))
        return verdict

    @hook
    async def before_forward(self, mail: Mail) -> Edits:
        """Return the edits; about what a human has released the scripts are asked again."""
        if mail.origin is Origin.RELEASE:
            await self.message(mail)
        return self._kept.get(mail, self.name)

    @hook
    def after_forward(self, mail: Mail) -> None:
        """Forget the message."""
        self._kept.drop(mail)

    async def _asked(
        self, stage: Stage, mail: Mail, recipient: Recipient | None
    ) -> tuple[Opinion, list[Edit]]:
        """Return the strongest verdict and all edits; the first that refuses is the last that is asked."""
        strongest: Verdict | None = None
        edits: list[Edit] = []
        for script in self.scripts():
            if script.at != stage:
                continue
            decision = await self._ask(script, mail, recipient)
            verdict = decision.opinion
            word = verdict.action.name.lower() if verdict else "none"
            result = "hit" if verdict and verdict.action is not Action.ACCEPT else "miss"
            mail.noted.append(Finding(self.name, result, props={"script": script.name, "verdict": word}))
            mail.noted.extend(decision.findings)
            edits += decision.edits
            if verdict is not None and (strongest is None or verdict.action > strongest.action):
                strongest = verdict
            if strongest is not None and strongest.action >= Action.DEFER:
                break
        return strongest, edits

    async def _ask(self, script: C, mail: Mail, recipient: Recipient | None) -> _script.Decision:
        async def work() -> _script.Decision:
            answer = await self.reach(script, mail, recipient)
            may_edit = script.at == "message"
            if len(answer) > ON_THE_LOOP:
                return await asyncio.to_thread(_script.read, answer, may_edit=may_edit)
            return _script.read(answer, may_edit=may_edit)

        return await self._services[script.name].ask(work)


def whole(script: Script, mail: Mail) -> bool:
    """Whether a script is given all of the message."""
    return script.at == "message" and script.send == "message" and mail.message.size <= script.max_size
