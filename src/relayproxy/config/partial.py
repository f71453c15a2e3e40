"""A configuration with mistakes in it, as far as it can be read.

With it, the checks of one part against another run in the same go as those of each part.
Whatever is wrong is left out; what stands behind it in a list moves up, and `original` says where it was.
"""

from functools import cached_property
from typing import Any

from pydantic import Field, ValidationError

from relayproxy.config.base import Context
from relayproxy.config.listeners import Listener
from relayproxy.config.models import Config
from relayproxy.config.upstreams import Upstream
from relayproxy.config.values import Name
from relayproxy.config.yaml import Path

_MOST_ROUNDS = 8


class _Lenient(Config):
    """A configuration that may lack what it needs."""

    version: int = 1  # type: ignore[assignment]
    """Any."""
    listeners: tuple[Listener, ...] = ()
    """None needed."""
    upstreams: dict[Name, Upstream] = Field(default_factory=dict)
    """None needed."""


class Partial:
    """What can be read of `shaped`, of which the paths in `wrong` can't: `config`, None if nothing can.

    `whole` is the configuration where nothing is wrong.
    """

    def __init__(
        self, shaped: dict[str, Any], wrong: set[Path], context: Context, whole: Config | None
    ) -> None:
        self.wrong = {path[:-1] if path[-1:] == ("[key]",) else path for path in wrong}
        self.config = whole
        self._moved: dict[Path, list[int]] = {}
        if whole is None:
            self._read(shaped, context)

    def _read(self, shaped: dict[str, Any], context: Context) -> None:
        for _ in range(_MOST_ROUNDS):
            self._moved = {}
            try:
                self.config = _Lenient.model_validate(self._without(shaped, (), ()), context=context)
            except ValidationError as error:
                more = {self._dropped(item) for item in error.errors(include_url=False)}
                if () in more or more <= self.wrong:
                    return
                self.wrong |= more
            else:
                return

    def _dropped(self, item: Any) -> Path:
        """Return what has to go for an error to go: the value, or what lacks a value."""
        path = self.original(tuple(item["loc"]))
        return path[:-1] if item["type"] == "missing" or path[-1:] == ("[key]",) else path

    def _without(self, value: Any, old: Path, new: Path) -> Any:
        if isinstance(value, dict):
            return {
                key: self._without(item, (*old, key), (*new, key))
                for key, item in value.items()
                if (*old, key) not in self.wrong
            }
        if isinstance(value, list):
            kept = [number for number in range(len(value)) if (*old, number) not in self.wrong]
            if len(kept) < len(value):
                self._moved[new] = kept
            return [
                self._without(value[number], (*old, number), (*new, place))
                for place, number in enumerate(kept)
            ]
        return value

    def original(self, path: Path) -> Path:
        """Return the path that something in `config` has where it is written."""
        found: Path = ()
        for depth, part in enumerate(path):
            kept = self._moved.get(path[:depth])
            moved = kept is not None and isinstance(part, int) and part < len(kept)
            found = (*found, kept[part] if moved and kept is not None and isinstance(part, int) else part)
        return found

    def lacks(self, path: Path) -> bool:
        """Whether something at or below a path, or above it, is left out."""
        return path in self._above or any(path[:depth] in self.wrong for depth in range(len(path)))

    @cached_property
    def _above(self) -> frozenset[Path]:
        """The paths in `wrong` and those above them: asked of every finding, so looked up."""
        return frozenset(bad[:depth] for bad in self.wrong for depth in range(len(bad) + 1))
