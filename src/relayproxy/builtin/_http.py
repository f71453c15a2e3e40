"""Asking a service over HTTP: the message goes out as it lies, the answer has an end.

The home of httpx among the plugins. Must not know what is asked, and has no time limits of its own: whoever asks has a
deadline.
"""

import ssl
from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Final

import httpx
from pydantic import AfterValidator

from relayproxy.api import Message, ServiceError

_LONGEST_ANSWER: Final = 4 * 1024 * 1024


def _url(text: str) -> str:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(f"{text!r} is no URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("write http://host:port or https://host:port")
    if url.userinfo:
        raise ValueError("a URL in the configuration holds no password")
    return text.rstrip("/")


Url = Annotated[str, AfterValidator(_url)]


class Caller:
    """A client for one service. Its connections are kept and used again."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(
            verify=ssl.create_default_context(),
            timeout=None,  # noqa: S113  (whoever asks has a deadline)
            trust_env=False,
            follow_redirects=False,
        )

    async def post(self, url: str, content: Message | bytes, headers: Iterable[tuple[str, bytes]]) -> bytes:
        """Return the answer to a POST. Raises ServiceError for all that is not a 200 with a reasonable body."""
        raw = [
            (b"Content-Length", str(len(content)).encode()),
            (b"Accept-Encoding", b"identity"),
            *((name.encode(), value) for name, value in headers),
        ]
        body = content if isinstance(content, bytes) else _pieces(content)
        try:
            async with self._client.stream("POST", url, content=body, headers=raw) as response:
                answer = bytearray()
                async for chunk in response.aiter_bytes():
                    answer += chunk
                    if len(answer) > _LONGEST_ANSWER:
                        raise ServiceError("the answer has no end")
        except (httpx.HTTPError, AttributeError) as error:
            # anyio 4.16 under uvloop asks a connection that is lost as soon as it is made for its name: AttributeError.
            raise ServiceError(str(error) or type(error).__name__) from error
        if response.status_code != httpx.codes.OK:
            raise ServiceError(f"answered {response.status_code}")
        return bytes(answer)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


async def _pieces(message: Message) -> AsyncIterator[bytes]:
    for chunk in message.chunks():
        yield chunk  # type: ignore[misc]  # h11 takes any buffer, and joins it with what goes before it
