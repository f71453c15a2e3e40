"""DNS as the algorithms of this floor see it: questions go out in batches, answers come back.

The shapes are those of relayproxy.api, which is a floor above and satisfies them. How a batch is put (one after
the other, or all at once) is the caller's business, since this floor has no event loop.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from enum import Enum
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, runtime_checkable


class Answer(Protocol):
    """The answer to one question, as relayproxy.api.Answer."""

    @property
    def status(self) -> Enum:
        """How the question ended; the value of a name that doesn't exist is "nxdomain"."""

    @property
    def records(self) -> tuple[Any, ...]:
        """The records, in the forms that relayproxy.api.Answer gives them."""

    @property
    def failed(self) -> bool:
        """Whether nothing is known: a temporary error."""


@runtime_checkable
class Remembering(Protocol):
    """A resolver with a cache that can be asked without waiting."""

    def peek(self, name: str, rdtype: str) -> Answer | None:
        """Return the answer if it is known."""


Question: TypeAlias = tuple[str, str]
"""A name (A-labels) and a record type."""

Fetch: TypeAlias = Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]]
"""Puts questions and returns their answers in the same order. Never raises for what a server says."""

Peek: TypeAlias = Callable[[str, str], Answer | None]
"""Returns the answer to a question if it is known without waiting."""


T = TypeVar("T")

_ROOM = 4096
_RECORD = 100  # octets of an answer, or of a record that is more than one value


class Memory(Generic[T]):
    """What came of evaluations, each with the very answers that it rests on; the oldest of `size` gives way.

    A result counts as long as the same answers are still given, so it lives no longer than they do. One that rests on
    more than 4 KiB of answers is not kept: strangers choose how long their records are.
    """

    def __init__(self, size: int = 2000) -> None:
        self._size = size
        self._kept: OrderedDict[Hashable, tuple[T, dict[Question, Answer]]] = OrderedDict()

    def find(self, key: Hashable, peek: Peek) -> T | None:
        """Return the result, if `peek` still gives the answers of then."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        result, answers = kept
        for question, answer in answers.items():
            if peek(*question) is not answer:
                return None
        return result

    def keep(self, key: Hashable, result: T, answers: dict[Question, Answer]) -> None:
        """Remember a result that depends on `key` and `answers` and on nothing else."""
        self._kept.pop(key, None)
        if sum(map(_octets, answers.values())) > _ROOM:
            return
        self._kept[key] = result, answers
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)


def _octets(answer: Answer) -> int:
    """Return about how much memory an answer takes up."""
    return _RECORD + sum(len(r) if isinstance(r, str | bytes) else _RECORD for r in answer.records)


def no_such_name(answer: Answer) -> bool:
    """Whether the name is known not to exist (NXDOMAIN), as opposed to having no such records."""
    return bool(answer.status.value == "nxdomain")
