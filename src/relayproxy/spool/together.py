"""Calls that come at the same time, done together: while one group is under way the next gathers.

The busier it is, the larger the group, and a call that comes alone waits for nobody. Must not know what is done.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from relayproxy.spool.protocol import SpoolError

Work: TypeAlias = Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]
"""Does something for several arguments, all or none; returns a result for each, or raises SpoolError."""


class Together:
    """Runs `work` in at most `flights` groups at the same time, of at most `most` calls that weigh at most `heaviest`.

    A group that fails is done again one by one, as one of them may be at fault; not so for `hopeless` errors.
    """

    def __init__(
        self,
        work: Work,
        *,
        flights: int = 2,
        most: int = 64,
        heaviest: int = 1_000_000,
        weigh: Callable[[Any], int] = lambda _: 0,
        hopeless: type[SpoolError],
    ) -> None:
        self._work = work
        self._flights = flights
        self._most = most
        self._heaviest = heaviest
        self._weigh = weigh
        self._hopeless = hopeless
        self._waiting: deque[tuple[Any, asyncio.Future[Any]]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def do(self, argument: Any) -> Any:
        """Return the result for `argument`. Raises SpoolError."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((argument, future))
        if len(self._running) < self._flights:
            self._running.add(asyncio.create_task(self._run()))
        return await future

    async def finish(self) -> None:
        """Wait for what has been asked for."""
        while self._running:
            await asyncio.wait(self._running)

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            while self._waiting:
                await self._fly(self._group())
        finally:
            # At once, not by a callback of the loop's: who asks before that ran would count on this task, and wait
            # for ever.
            self._running.discard(task)

    def _group(self) -> list[tuple[Any, asyncio.Future[Any]]]:
        group = [self._waiting.popleft()]
        weight = self._weigh(group[0][0])
        while self._waiting and len(group) < self._most:
            weight += self._weigh(self._waiting[0][0])
            if weight > self._heaviest:
                break
            group.append(self._waiting.popleft())
        return group

    async def _fly(self, group: list[tuple[Any, asyncio.Future[Any]]]) -> None:
        try:
            results = await self._work([argument for argument, _ in group])
        except Exception as error:  # noqa: BLE001  (the fence of the group: whoever waits must hear of it)
            if len(group) > 1 and not isinstance(error, self._hopeless):
                for one in group:
                    await self._fly([one])
                return
            problem = (
                error if isinstance(error, SpoolError) else SpoolError(f"{type(error).__name__}: {error}")
            )
            for _, future in group:
                if not future.done():
                    future.set_exception(type(problem)(str(problem)))
            return
        for (_, future), result in zip(group, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
