"""What a foreign program wants changed in a message: made into edits, and kept from the check to the forwarding.

A decide hook can't edit, so what a scanner said at `message` waits here for `before_forward`. A message that is held is
stored as it arrived, and its wait can be long: on its release the scanner is asked again. Must not know which
program wants it, nor how edits are applied.
"""

import re
from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

from relayproxy.api import (
    AddHeader,
    DropHeader,
    Edit,
    Mail,
    Message,
    ReplaceBody,
    ReplaceHeader,
    ServiceError,
)

T = TypeVar("T")

_STALE: Final = 300.0  # seconds after which a message that has not been forwarded never will be
_ROOM: Final = 64 * 1024 * 1024  # octets that may be kept for messages in progress and those refused lately
_LEAST: Final = 1024  # octets that a value counts for, however small it is
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_LONGEST_VALUE = 8192


class Kept(Generic[T]):
    """One value for each message that is in progress.

    Nobody says when a message is refused elsewhere, so values grow old; and there is room for so many octets of them, the
    oldest go first. A message in progress that loses its value so is a fault, see `get`.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._values: dict[str, tuple[float, int, T]] = {}
        self._octets = 0

    def __len__(self) -> int:
        return len(self._values)

    def put(self, mail: Mail, value: T, octets: int = 0) -> None:
        """Keep `value`, of so many octets, for this message."""
        now = self._monotonic()
        self._forget(mail.id)
        self._values[mail.id] = (now, octets + _LEAST, value)
        self._octets += octets + _LEAST
        while (oldest := next(iter(self._values))) != mail.id:
            if self._values[oldest][0] > now - _STALE and self._octets <= _ROOM:
                break
            self._forget(oldest)

    def get(self, mail: Mail, method: str) -> T | None:
        """Return the value; None for a message that was not asked about.

        Raises ServiceError when a finding of `method` says that it was, and the value is gone: the message must not
        leave without what was wanted.
        """
        if mail.id in self._values:
            return self._values[mail.id][2]
        if mail.finding(method) is None:
            return None
        raise ServiceError(f"{method}: what was wanted for this message is no longer known")

    def drop(self, mail: Mail) -> None:
        """Forget the value of a message whose fate is known."""
        self._forget(mail.id)

    def _forget(self, name: str) -> None:
        _, octets, _ = self._values.pop(name, (0.0, 0, None))
        self._octets -= octets


def weight(edits: Iterable[Edit]) -> int:
    """Return how many octets edits take, about."""
    return sum(len(edit.body) if isinstance(edit, ReplaceBody) else _LEAST for edit in edits)


def fit(value: str) -> str:
    """Return a foreign value of a header field as an edit takes it: folds with CRLF, no other control character."""
    lines = _CONTROL.sub("?", value.replace("\r\n", "\n").replace("\r", "\n")[:_LONGEST_VALUE]).split("\n")
    kept = [lines[0].strip(" \t")]
    kept += [line if line[0] in " \t" else f" {line}" for line in lines[1:] if line.strip(" \t")]
    return "\r\n".join(kept)


def added(name: str, value: str, *, bottom: bool = False) -> AddHeader:
    """Return the edit that adds a field. Raises ServiceError for a name that is none."""
    try:
        return AddHeader(name, fit(value), bottom)
    except ValueError as error:
        raise ServiceError(f"wants a header field that can't be: {error}") from error


def replaced(name: str, value: str, index: int = 0) -> ReplaceHeader:
    """Return the edit that gives a field another value. Raises ServiceError for a name that is none."""
    try:
        return ReplaceHeader(name, fit(value), index)
    except ValueError as error:
        raise ServiceError(f"wants a header field that can't be: {error}") from error


def dropped(message: Message, name: str, number: int) -> list[Edit]:
    """Return the edits that take out field `number` called `name`: 1 is the first, -1 the last, 0 all of them."""
    count = len(message.all(name))
    if number == 0:
        return [DropHeader(name)] if count else []
    index = number - 1 if number > 0 else count + number
    return [DropHeader(name, index)] if 0 <= index < count else []
