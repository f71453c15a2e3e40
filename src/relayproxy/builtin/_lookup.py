"""What the DNS plugins share: a batch of questions put all at once, and the answers that need no waiting."""

import asyncio
from collections.abc import Sequence

from relayproxy.api import Answer, Resolver
from relayproxy.mailauth.lookup import Fetch, Peek, Question, Remembering


def fetch_from(resolver: Resolver) -> Fetch:
    """Return a function that puts questions side by side, so that a batch takes as long as its slowest."""

    async def fetch(questions: Sequence[Question]) -> list[Answer]:
        if len(questions) == 1:
            return [await resolver.query(*questions[0])]
        return await asyncio.gather(*(resolver.query(*question) for question in questions))

    return fetch


def peek_at(resolver: Resolver) -> Peek:
    """Return a function that gives what the resolver knows already; nothing if it has no memory."""
    return resolver.peek if isinstance(resolver, Remembering) else _nothing


def _nothing(name: str, rdtype: str) -> None:  # noqa: ARG001  (the shape of Peek)
    return None
