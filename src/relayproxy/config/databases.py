"""The URLs of databases that are files: `sqlite:///path`, the path absolute.

Must not know what is kept in them, or whether the file is there.
"""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from relayproxy.config.base import quoted, refusal


def sqlite_url(example: str) -> Callable[[str], str]:
    """Return a validator of such URLs; `example` is the one that its complaint shows."""

    def checked(url: str) -> str:
        if not is_sqlite(url):
            raise refusal("RP212", f"{quoted(url)} is not a database that is known", f"write {example}")
        return url

    return checked


def is_sqlite(url: str) -> bool:
    """Whether the URL names a file."""
    return url.startswith("sqlite:///") and not url.endswith("/") and "?" not in url


def sqlite_path(url: str) -> Path:
    """The file that the URL names."""
    return Path("/" + unquote(url.removeprefix("sqlite://")).lstrip("/"))
