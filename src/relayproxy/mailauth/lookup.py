"""DNS as the algorithms of this floor see it: questions go out in batches, answers come back.

The shapes are those of relayproxy.api, which is a floor above and satisfies them. How a batch is put (one after
the other, or all at once) is the caller's business, since this floor has no event loop.
"""

from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Any, Protocol, TypeAlias, runtime_checkable


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


def no_such_name(answer: Answer) -> bool:
    """Whether the name is known not to exist (NXDOMAIN), as opposed to having no such records."""
    return bool(answer.status.value == "nxdomain")
