"""The fence round foreign code: calls a hook, and turns whatever it does wrong into words for the log.

A plain function that answers at once costs a call and no more: nothing is awaited, no timer is set. Must not know what
becomes of a fault.
"""

import asyncio
import traceback
import types
from collections import deque
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any, TypeAlias

from relayproxy.api import Clock, ServiceError, Unavailable
from relayproxy.core.entry import Call, Scope
from relayproxy.core.log import Log
from relayproxy.core.waiting import AbandonedError, ended, within
from relayproxy.model.mail import Mail

Came: TypeAlias = tuple[Any, str, float]
"""What a call came to: its value, what went wrong or "", and how many seconds it took."""


_KEPT = 100  # coroutines that will not end, in case a plugin makes more and more of them


class Fence:
    """Calls hooks."""

    def __init__(self, clock: Clock, log: Log) -> None:
        self.monotonic = clock.monotonic
        self._log = log
        self._stuck: deque[Coroutine[Any, Any, Any]] = deque(maxlen=_KEPT)

    @staticmethod
    def is_idle(call: Call, mail: Mail, arguments: Mapping[str, Any]) -> bool:
        """Whether a hook says that it has nothing to do with a mail; one that fails to tell is called."""
        assert call.screen is not None
        try:
            return not call.screen(mail, *arguments.values())
        except BaseException:  # noqa: BLE001  (foreign code; what is wrong comes up again where it is accounted for)
            return False

    def begin(self, call: Call, scope: Scope, arguments: dict[str, Any]) -> Came | Coroutine[Any, Any, Came]:
        """Call a hook; return what it came to, or what is to be awaited for that."""
        start = self.monotonic()
        value: Any = None
        error = ""
        try:
            value = call.function(*[arguments[name] for name in call.names])
            if value is not None and hasattr(type(value), "__await__"):
                return self._awaited(call, scope, Owned(value), start, arguments)
        except BaseException as fault:  # noqa: BLE001  (foreign code; a panic in Rust is no Exception)
            error = self._caught(call, fault, start, arguments)
        seconds = self.monotonic() - start
        call.timer.observe(seconds)
        return value, error, seconds

    async def _awaited(
        self, call: Call, scope: Scope, owned: "Owned", start: float, arguments: dict[str, Any]
    ) -> Came:
        """Wait for a hook, as long as its time and the message's allow."""
        error = ""
        value = owned.taken()
        coroutine = value if type(value) is types.CoroutineType else _awaiting(value)
        began = asyncio.get_running_loop().time()
        try:
            # Most have the answer at hand, and then there is nothing that a timer could end.
            try:
                wanted = coroutine.send(None)
            except StopIteration as end:
                return self._ended(call, end.value, "", start)
            room = call.entry.timeout
            if scope.deadline:
                room = min(room, scope.deadline - start)
            value = await within(coroutine, wanted, began + room)
        except BaseException as fault:  # noqa: BLE001  (foreign code; a panic in Rust is no Exception)
            if not ended(coroutine):
                # Nothing leads it on; but to let go of it would have Python complain on standard error.
                self._stuck.append(coroutine)
            value, error = None, self._caught(call, fault, start, arguments)
        return self._ended(call, value, error, start)

    def _ended(self, call: Call, value: Any, error: str, start: float) -> Came:
        seconds = self.monotonic() - start
        call.timer.observe(seconds)
        return value, error, seconds

    def _caught(self, call: Call, fault: BaseException, start: float, arguments: dict[str, Any]) -> str:
        """Say what went wrong; what is no fault of the hook (we are cancelled, or closed) goes on upwards."""
        if isinstance(fault, AbandonedError):
            error = f"no answer within {self.monotonic() - start:.1f} s, and was abandoned at {fault.where}"
            self.fault(call, "abandoned", error, arguments)
        elif isinstance(fault, TimeoutError):
            error = f"no answer within {self.monotonic() - start:.1f} s"
            self.fault(call, "timeout", error, arguments, fault)
        elif isinstance(fault, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise fault
            error = "was cancelled from within"
            self.fault(call, "raise", error, arguments, fault)
        elif isinstance(fault, Unavailable):
            # Once an outage is enough: whoever noticed has logged it.
            error = str(fault)
            call.errors["unavailable"].inc()
        elif isinstance(fault, ServiceError):
            error = str(fault)
            self.fault(call, "service", error, arguments)
        elif isinstance(fault, GeneratorExit):
            raise fault
        else:
            error = where(fault)
            self.fault(call, "raise", error, arguments, fault)
        return error

    def fault(
        self,
        call: Call,
        kind: str,
        error: str,
        arguments: Mapping[str, Any],
        fault: BaseException | None = None,
    ) -> None:
        """Count and log what a hook did wrong, with the id of the message or connection that it was called for."""
        call.errors[kind].inc()
        about = arguments.get("mail") or arguments.get("client")
        self._log.error(
            "plugin_fault",
            **({"id": about.id} if about is not None else {}),
            plugin=call.entry.name,
            hook=call.hook,
            kind=kind,
            error=error,
            on_error=call.entry.on_error,
            traceback="".join(traceback.format_exception(fault))
            if fault is not None and kind == "raise"
            else "",
        )


class Owned:
    """A hook's awaitable until somebody begins to wait for it.

    Python warns of a coroutine that is only dropped, and a task may be cancelled before its first turn.
    """

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def taken(self) -> Any:
        """Return it, to be waited for now."""
        value, self._value = self._value, None
        return value

    def __del__(self) -> None:
        if type(self._value) is types.CoroutineType:
            self._value.close()


async def _awaiting(value: Awaitable[Any]) -> Any:
    """A coroutine of whatever can be awaited."""
    return await value


def where(fault: BaseException) -> str:
    """Return an exception in words, and the line that raised it."""
    frames = traceback.extract_tb(fault.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    try:
        text = str(fault)
    except Exception:  # noqa: BLE001  (how an exception shows itself is foreign code)
        text = "(can't be shown)"
    return f"{type(fault).__name__}: {text}{place}"
