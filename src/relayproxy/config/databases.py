"""The URLs of databases: `sqlite:///path`, the path absolute, and `postgresql://host:port/name`.

Must not know what is kept in them, or whether the file or the server is there.
"""

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from relayproxy.config.base import quoted, refusal
from relayproxy.config.values import parse_endpoint

_POSTGRES_PORT = 5432
_POSTGRES = re.compile(r"postgresql://(?P<places>[^/@?#]+)/(?P<name>[^/@?#]+)\Z")
_LOGIN_IN_URL = re.compile(r"://[^/]*@")


def database_url(example: str) -> Callable[[str], str]:
    """Return a validator of such URLs; `example` is the file that its complaint shows."""

    def checked(url: str) -> str:
        if is_postgres(without_login(url)):
            postgres_places(url)
        elif not is_sqlite(url):
            hint = f"write {example}, or postgresql://HOST:PORT/DATABASE"
            raise refusal("RP212", f"{quoted(url)} is not a database that is known", hint)
        return url

    return checked


def is_sqlite(url: str) -> bool:
    """Whether the URL names a file."""
    return url.startswith("sqlite:///") and not url.endswith("/") and "?" not in url


def sqlite_path(url: str) -> Path:
    """The file that the URL names."""
    return Path("/" + unquote(url.removeprefix("sqlite://")).lstrip("/"))


def without_login(url: str) -> str:
    """Return a URL that holds no login. Raises the refusal of one that does."""
    if _LOGIN_IN_URL.search(url):
        raise refusal(
            "RP120",
            "a login and its password are not written in the url",
            "write login: NAME and password: {file: PATH} beside it",
        )
    return url


def is_postgres(url: str) -> bool:
    """Whether the URL names a PostgreSQL server."""
    return url.startswith("postgresql:")


def postgres_places(url: str) -> tuple[tuple[tuple[str, int], ...], str]:
    """Return the servers of `postgresql://host:port,host:port/name`, and the name of the database.

    A host may be the folder of a Unix socket, its slashes written as %2F.
    """
    found = _POSTGRES.match(url)
    if not found:
        raise refusal(
            "RP212", f"{quoted(url)} is not a database that is known", "write postgresql://HOST:PORT/DATABASE"
        )
    return tuple(_place(text) for text in found["places"].split(",")), unquote(found["name"])


def _place(text: str) -> tuple[str, int]:
    if text.lower().startswith("%2f"):
        folder, _, port = text.partition(":")
        return unquote(folder), parse_endpoint(f"localhost:{port}").port if port else _POSTGRES_PORT
    place = parse_endpoint(text, default_port=_POSTGRES_PORT)
    return place.host, place.port
