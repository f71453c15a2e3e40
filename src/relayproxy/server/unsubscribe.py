"""The page where a reader unsubscribes with one click (RFC 8058): a POST unsubscribes, a GET shows a button.

No cookies, no redirects (RFC 8058 section 3.1), and nothing that a link scanner's GET could change. Must not know how a
token is made, nor where it is written down that somebody has unsubscribed.
"""

import html
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final
from urllib.parse import parse_qs

from relayproxy.mailauth.unsubscribe_token import Unsubscription
from relayproxy.server.http import Answer, Request

MOST_BODY: Final = 8192
"""Octets of a POST: the field, and what a form of several parts has around it."""

RESULTS: Final = ("unsubscribed", "shown", "bad_token", "bad_request", "throttled", "unavailable")
"""What becomes of a request; the label of a metric."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{22}(?![A-Za-z0-9_-])")
_FIELD, _VALUE = "List-Unsubscribe", "One-Click"
_BOUNDARY = re.compile(r'boundary="?([^";\s]{1,70})', re.IGNORECASE)
_NAMED = re.compile(
    rb'^content-disposition:.*[;\s]name="?List-Unsubscribe"?\s*(?:;|$)', re.IGNORECASE | re.MULTILINE
)
_MOST_CLIENTS = 10_000  # of which it is remembered how much they asked
_HTML = "text/html; charset=utf-8"
_SAFE = (
    ("Cache-Control", "no-store"),
    (
        "Content-Security-Policy",
        "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Robots-Tag", "noindex, nofollow"),
)


class Unavailable(Exception):  # noqa: N818  (says what is the matter)
    """Nobody can say or write it down just now: whoever asked should try again."""


Reading = Callable[[str], Awaitable[Unsubscription | None]]
Keeping = Callable[[Unsubscription, str], Awaitable[None]]


class UnsubscribePage:
    """Answers requests. `read` and `keep` raise Unavailable; `keep` returns when it is on disk."""

    def __init__(
        self,
        read: Reading,
        keep: Keeping,
        *,
        counted: Callable[[str], None],
        monotonic: Callable[[], float],
        per_minute: int,
        proxies: Sequence[IPv4Network | IPv6Network] = (),
    ) -> None:
        self._read = read
        self._keep = keep
        self._counted = counted
        self._proxies = proxies
        self._rate = _Rate(per_minute, monotonic)

    async def __call__(self, request: Request) -> Answer:
        """Return the answer; never raises."""
        result, answer = await self._answer(request)
        self._counted(result)
        return answer

    async def _answer(self, request: Request) -> tuple[str, Answer]:
        client = self._client(request)
        if wait := self._rate.wait(client):
            again = (("Retry-After", str(wait)),)
            return "throttled", _page(429, "Too many requests", "Please try again in a moment.", more=again)
        if request.method not in ("GET", "HEAD", "POST"):
            return "bad_request", _page(405, "Not possible", "", more=(("Allow", "GET, HEAD, POST"),))
        found = _TOKEN.search(request.target)
        try:
            wish = await self._read(found[0]) if found else None
            if wish is None:
                text = "This link is not valid, or not any more."
                return "bad_token", _page(404, "Nothing is here", text)
            if request.method != "POST":
                return "shown", _page(200, "Unsubscribe", _about(wish), form=True)
            if not _is_one_click(request):
                return "bad_request", _page(400, "Not understood", "Nothing was changed.")
            await self._keep(wish, client)
        except Unavailable:
            text = "Please try again in a moment. Nothing was changed."
            return "unavailable", _page(503, "Not just now", text, more=(("Retry-After", "60"),))
        return "unsubscribed", _page(
            200, "Unsubscribed", f"{wish.recipient} gets no more mail of {wish.list_id}."
        )

    def _client(self, request: Request) -> str:
        """Return who asks: the peer, or whom a proxy that we trust has named last."""
        peer = request.peer
        named = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
        try:
            # Through a Unix socket comes nobody but a proxy.
            trusted = not peer or any(ip_address(peer.partition("%")[0]) in one for one in self._proxies)
            return str(ip_address(named)) if trusted and named else peer
        except ValueError:
            return peer


class _Rate:
    """A token bucket for each client, refilled evenly; one whose bucket is full is forgotten first."""

    def __init__(self, per_minute: int, monotonic: Callable[[], float]) -> None:
        self._per_second = per_minute / 60
        self._burst = float(per_minute)
        self._monotonic = monotonic
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> int:
        """Take one; return 0, or the seconds until there is another."""
        key, now = _network(client), self._monotonic()
        spent, at = self._spent.pop(key, (0.0, now))
        spent = max(0.0, spent - (now - at) * self._per_second)
        allowed = spent + 1 <= self._burst
        self._spent[key] = (spent + 1 if allowed else spent, now)
        if len(self._spent) > _MOST_CLIENTS:
            self._spent.popitem(last=False)
        return 0 if allowed else 1 + int((spent + 1 - self._burst) / self._per_second)


def _network(client: str) -> str:
    """Return what counts as one client: an IPv4 address, or the /64 that one holder of IPv6 has."""
    try:
        address = ip_address(client.partition("%")[0])
    except ValueError:
        return client
    return client if address.version == 4 else str(IPv6Network((int(address) >> 64 << 64, 64)))


def _is_one_click(request: Request) -> bool:
    """Whether the body is what RFC 8058 section 3.2 has a mail program send, in either of its two forms."""
    kind = request.headers.get("content-type", "")
    if kind.lower().lstrip().startswith("multipart/form-data"):
        found = _BOUNDARY.search(kind)
        # RFC 7578: what stands between the delimiters is a part, its head ends with an empty line.
        parts = request.body.split(b"--" + found[1].encode("latin-1"))[1:-1] if found else []
        return [value.strip() for head, value in map(_halves, parts) if _NAMED.search(head)] == [
            _VALUE.encode()
        ]
    fields = parse_qs(request.body.decode("ascii", "replace"))
    return [value.strip() for value in fields.get(_FIELD, [])] == [_VALUE]


def _halves(part: bytes) -> tuple[bytes, bytes]:
    head, _, value = part.partition(b"\r\n\r\n")
    return head, value


def _about(wish: Unsubscription) -> str:
    return f"Do you want {wish.recipient} to get no more mail of {wish.list_id}?"


def _page(
    code: int, title: str, text: str, *, form: bool = False, more: tuple[tuple[str, str], ...] = ()
) -> Answer:
    button = (
        f'<form method="post"><input type="hidden" name="{_FIELD}" value="{_VALUE}">'
        "<button>Unsubscribe</button></form>"
        if form
        else ""
    )
    body = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>'
        f"{title}</title></head><body><h1>{title}</h1><p>{html.escape(text)}</p>{button}</body></html>\n"
    )
    return Answer(code, body.encode("utf-8", "replace"), _HTML, (*_SAFE, *more))
