"""Between the unsubscribe page and the plugins: who reads a token, and who writes down what it says.

Must not know HTTP, tokens or lists.
"""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from relayproxy.core.entry import Call
from relayproxy.core.log import Log
from relayproxy.core.pipeline import Pipeline
from relayproxy.mailauth.unsubscribe_token import Unsubscription
from relayproxy.model.event import NoteEvent


class UnsubscribeFault(Exception):  # noqa: N818  (says what is the matter)
    """A plugin could not do its part; the log says why."""


class Unsubscribing:
    """Asks the plugins. `record` takes an event for the history, if there is one."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        log: Log,
        now: Callable[[], float],
        record: Callable[[NoteEvent], object] | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._log = log
        self._now = now
        self._record = record

    async def read(self, token: str) -> Unsubscription | None:
        """Return what a token says, None where nobody knows it. Raises UnsubscribeFault."""
        for call in self._pipeline.calls("read_token"):
            found = await self._ask(call, token=token)
            if isinstance(found, Unsubscription):
                return found
        return None

    async def keep(self, wish: Unsubscription, client: str) -> None:
        """Return when all plugins have written it down. Raises UnsubscribeFault."""
        calls = self._pipeline.calls("unsubscribed")
        for call in calls:
            await self._ask(call, wish=wish)
        if not calls:
            raise UnsubscribeFault("nobody writes it down")
        self._log.info("unsubscribed", to=wish.recipient, list=wish.list_id, scope=wish.scope, client=client)
        if self._record is not None:
            details = {"recipient": wish.recipient, "list": wish.list_id, "scope": wish.scope}
            self._record(NoteEvent(self._now(), "unsubscribe", "", details=details))

    async def _ask(self, call: Call, **arguments: Any) -> Any:
        try:
            async with asyncio.timeout(call.entry.timeout):
                answer = call.function(*[arguments[name] for name in call.names])
                return await answer if inspect.isawaitable(answer) else answer
        except Exception as error:  # the fence round foreign code
            self._log.error(
                "plugin_fault",
                plugin=call.entry.name,
                hook=call.hook,
                error=f"{type(error).__name__}: {error}",
            )
            raise UnsubscribeFault(call.entry.name) from error
