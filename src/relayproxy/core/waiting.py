"""Waiting for foreign code until its time is up, whatever it does then.

A coroutine that has begun is led on from here, in the task that it began in, so that time limits and task groups of its
own work. What it waits for is watched and not awaited: neither a coroutine that swallows its cancellation, nor a task
of its own that does, keeps us. Must not know what is being waited for.
"""

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any

GRACE = 1.0
"""Seconds that a coroutine has to end after it was cancelled."""


class AbandonedError(TimeoutError):
    """A coroutine did not end when it was cancelled; nobody leads it on any more. `where` it stands, as file:line."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where


async def within(coroutine: Coroutine[Any, Any, Any], wanted: Any, until: float) -> Any:
    """Lead a coroutine on that waits for `wanted`; return what it returns before `until` (the loop's time).

    When that has come it is cancelled. Raises TimeoutError if it has ended then, AbandonedError if it hasn't GRACE
    seconds later, and whatever it raises itself.
    """
    watch = _Watch(asyncio.get_running_loop(), until)
    try:
        while True:
            thrown = await watch.on(wanted)
            try:
                wanted = coroutine.send(None) if thrown is None else coroutine.throw(thrown)
            except StopIteration as end:
                if watch.late:
                    raise TimeoutError from None
                return end.value
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if watch.late and not (task is not None and task.cancelling()):
                    raise TimeoutError from None
                raise
            if watch.over:
                raise AbandonedError(_place(coroutine))
    except _OverError:
        raise AbandonedError(_place(coroutine)) from None
    finally:
        watch.timer.cancel()


def ended(coroutine: Coroutine[Any, Any, Any]) -> bool:
    """Make an abandoned coroutine end where it stands; False if it will not even do that."""
    try:
        coroutine.close()
    except BaseException:  # noqa: BLE001  (foreign code on its way out; how it fails there says nothing more)
        return getattr(coroutine, "cr_frame", None) is None
    return True


class _OverError(Exception):
    """The time is up, and so is the grace."""


class _Watch:
    """Looks out for a future, for the end of the time, and for our own cancellation."""

    __slots__ = ("_loop", "_waiter", "late", "over", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, until: float) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self.late = self.over = False
        self.timer = loop.call_at(until, self._up)

    def _up(self) -> None:
        if self.late:
            self.over = True
        else:
            self.late = True
            self.timer = self._loop.call_later(GRACE, self._up)
        self._wake()

    def _wake(self, _future: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def on(self, wanted: Any) -> BaseException | None:
        """Return when the coroutine that waits for `wanted` may go on: what is to be thrown into it, or None.

        Raises _OverError.
        """
        late = self.late
        if not asyncio.isfuture(wanted):
            try:
                await _turn(wanted)
            except asyncio.CancelledError as cancelled:
                return cancelled
            return asyncio.CancelledError() if self.late and not late else None
        wanted.add_done_callback(self._wake)
        try:
            while not wanted.done():
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                except asyncio.CancelledError as cancelled:
                    # As a task that waits for it would do: what is waited for is cancelled, and says so when it has ended.
                    # By its words a library knows its own cancellation again.
                    if not wanted.cancel(*cancelled.args):
                        return cancelled
                if self.over:
                    raise _OverError
                if self.late and not late:
                    late = True
                    if not wanted.cancel():
                        return asyncio.CancelledError()
            return None
        finally:
            self._waiter = None
            wanted.remove_done_callback(self._wake)


@types.coroutine
def _turn(wanted: Any) -> Generator[Any, Any, None]:
    """Hand on to the loop what is no future: None, for one turn of it."""
    yield wanted


def _place(coroutine: Coroutine[Any, Any, Any]) -> str:
    frame = getattr(coroutine, "cr_frame", None)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "an unknown place"
