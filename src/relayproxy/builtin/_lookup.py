"""What the plugins that ask DNS share: questions put side by side and beside hashing, and answers that need no waiting."""

import asyncio
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, TypeVar

from relayproxy.api import Message, Resolver
from relayproxy.mailauth.canonical import BodyDigest, BodyForm, body_digests
from relayproxy.mailauth.lookup import Answer, Fetch, Peek, Question, Remembering

T = TypeVar("T")

ON_THE_LOOP = 65_536
"""Octets of a body that are hashed at once; more would keep other sessions waiting."""


class NotKnownError(Exception):
    """An answer would have to be waited for."""


def peek_at(resolver: Resolver) -> Peek:
    """Return a function that gives what the resolver knows already; nothing if it has no memory."""
    return resolver.peek if isinstance(resolver, Remembering) else _nothing


def known_to(peek: Peek) -> Fetch:
    """Return a function that gives a batch of answers from memory alone. It raises NotKnownError where one is missing."""

    async def fetch(questions: Sequence[Question]) -> list[Answer]:
        answers = []
        for question in questions:
            answer = peek(*question)
            if answer is None:
                raise NotKnownError
            answers.append(answer)
        return answers

    return fetch


def recorded(fetch: Fetch, used: dict[Question, Answer]) -> Fetch:
    """Return `fetch`, noting in `used` what it brings."""

    async def noted(questions: Sequence[Question]) -> Sequence[Answer]:
        answers = await fetch(questions)
        used.update(zip(questions, answers, strict=True))
        return answers

    return noted


def at_once(check: Coroutine[Any, Any, T]) -> T:
    """Return what a check comes to, which asks only by a function of `known_to`. Raises NotKnownError.

    Most of what mail asks is known, and then a check that doesn't wait needs no task, no timer and no turn of the loop.
    """
    try:
        check.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    check.close()
    raise NotKnownError


def _nothing(name: str, rdtype: str) -> None:  # noqa: ARG001  (the shape of Peek)
    return None


async def asked_and_hashed(
    fetch: Fetch, questions: Sequence[Question], message: Message, forms: Collection[BodyForm]
) -> tuple[Sequence[Answer], dict[BodyForm, BodyDigest]]:
    """Ask, and return the answers with the body's digests; a large body is hashed in a thread meanwhile."""
    if message.body_size <= ON_THE_LOOP:
        return await fetch(questions), body_digests(message, forms)
    return await asyncio.gather(fetch(questions), asyncio.to_thread(body_digests, message, forms))
