"""pydantic's errors as problems: each at its place in the file, in words for an admin.

Must not know how the value was read or what is done with it.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from pydantic import ValidationError

from relayproxy.config import yaml
from relayproxy.config.masking import is_secret_name, key_shown
from relayproxy.config.problems import guesses, is_like
from relayproxy.config.shape import keys_at, wants_list
from relayproxy.model.refused import Refused

_LONGEST_NAME = 40
_KINDS = {
    "string": "text is wanted",
    "bool": "true or false is wanted",
    "int": "a whole number is wanted",
    "float": "a number is wanted",
    "tuple": "a list is wanted",
    "list": "a list is wanted",
    "dict": "a mapping is wanted",
    "model": "a mapping is wanted",
    "model_attributes": "a mapping is wanted",
}


class Report(Protocol):
    """Takes a problem at a path. `on_key` points at the key, `where` is the path that is spoken of."""

    def __call__(  # noqa: D102  (the class says it)
        self,
        at: yaml.Path,
        code: str,
        message: str,
        hint: str = "",
        *,
        on_key: bool = False,
        where: yaml.Path | None = None,
    ) -> None: ...


class Translation:
    """Reports the errors of one validation, and keeps the paths that are wrong.

    `root` is the model that was validated at `base`; `place` turns a location into the path where it is written,
    `written` says whether something is there; `extra` are keys that are known beside the model's own. Paths in
    `known` are wrong for a reason that is reported already.
    """

    def __init__(
        self,
        report: Report,
        root: Any,
        *,
        base: yaml.Path = (),
        place: Callable[[yaml.Path], yaml.Path] = lambda loc: loc,
        written: Callable[[yaml.Path], bool] = lambda _: True,
        extra: Iterable[str] = (),
        known: Iterable[yaml.Path] = (),
    ) -> None:
        self._report = report
        self._root = root
        self._base = base
        self._place = place
        self._written = written
        self._extra = tuple(extra)
        self._seen = set(known)
        self.wrong: set[yaml.Path] = set()

    def take(self, error: ValidationError) -> None:
        """Report each error once."""
        items = error.errors(include_url=False)
        locs = [tuple(item["loc"]) for item in items]
        unknown = [loc for item, loc in zip(items, locs, strict=True) if item["type"] == "extra_forbidden"]
        for item, loc in zip(items, locs, strict=True):
            if item["type"] == "too_short" and any(
                len(other) > len(loc) and other[: len(loc)] == loc for other in locs
            ):
                continue  # what is in the list is wrong, so it counts as empty: one cause, one problem
            if item["type"] == "missing" and any(
                other[:-1] == loc[:-1] and is_like(str(other[-1]), str(loc[-1])) for other in unknown
            ):
                self.wrong.add(loc)  # it is there, misspelt
                continue
            self._take_one(item, loc)

    def _take_one(self, item: Any, loc: yaml.Path) -> None:
        kind = item["type"]
        at = (*self._base, *self._place(loc))
        if loc and loc[-1] == "[key]":
            at = at[:-1] if at[-1] == "[key]" else at
        elif kind != "missing":
            while len(at) > len(self._base) and not self._written(at):
                at = at[:-1]  # unions and forms that a validator unfolds add parts that nobody wrote
        self.wrong.add(loc)
        if at in self._seen:
            return
        self._seen.add(at)
        self._say(item, kind, at, on_key=bool(loc) and loc[-1] == "[key]")

    def _say(self, item: Any, kind: str, at: yaml.Path, *, on_key: bool) -> None:
        context, given = item.get("ctx") or {}, item["input"]
        inner = at[len(self._base) :]
        if kind == "extra_forbidden":
            known = keys_at(self._root, inner[:-1])
            known += self._extra if len(inner) <= 1 else ()
            key = key_shown(str(at[-1]))
            hint = guesses(key.removesuffix("..."), known, "keys here")
            self._report(at, "RP101", f"unknown key '{key}'", hint, on_key=True, where=at[:-1])
        elif kind == "missing":
            self._report(at[:-1], "RP102", f"key '{at[-1]}' is missing", on_key=True)
        elif kind == "too_short":
            self._report(at, "RP102", "at least one is needed here")
        elif kind == "literal_error":
            words = str(context.get("expected", "")).replace(" or ", ", ").split(", ")
            self._choice(at, given, [word.strip("'") for word in words])
        elif kind == "union_tag_invalid":
            self._choice(at, given, str(context.get("expected_tags", "")).replace("'", "").split(", "))
        elif kind.startswith("RP"):
            self._report(at, kind, item["msg"], str(context.get("hint", "")), on_key=on_key)
        elif isinstance(refused := context.get("error"), Refused):
            self._report(at, "RP203" if refused.beyond else "RP210", refused.message, refused.hint)
        elif "greater" in kind or "less" in kind:
            self._report(at, "RP203", _first_lower(item["msg"]))
        elif kind.endswith(("_type", "_parsing")):
            self._report(at, "RP110", *self._wanted(kind, given, at, inner))
        else:
            text = str(item["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
            self._report(at, "RP210", _first_lower(text))

    def _choice(self, at: yaml.Path, given: Any, words: list[str]) -> None:
        hint = guesses(given, words) if isinstance(given, str) else ""
        self._report(at, "RP202", "not one of the known words", hint or f"one of {', '.join(words)}")

    def _wanted(self, kind: str, given: Any, at: yaml.Path, inner: yaml.Path) -> tuple[str, str]:
        """Say what is wanted in place of a value of another kind, and how to write it."""
        message = _KINDS.get(kind.rpartition("_")[0], "another kind of value is wanted")
        if given is None:
            return f"{message}, and nothing is there", "remove the key, or give it a value"
        if isinstance(given, str) and wants_list(self._root, inner):
            shown = any(isinstance(part, str) and is_secret_name(part) for part in at)
            return message, "" if shown else f"write [{given}]" if _is_short(
                given
            ) else "write it in brackets: [...]"
        if isinstance(given, (bool, int, float)) and kind == "string_type":
            read = str(given).lower() if isinstance(given, bool) else "a number"
            return message, f"YAML reads this as {read}; quote it to make it text"
        return message, ""


def _is_short(text: str) -> bool:
    return len(text) <= _LONGEST_NAME and text.isprintable()


def _first_lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def spoken(at: yaml.Path, raw: Any) -> str:
    """Return a path in the words of the file: `listeners[0] "inbound" > tls`, `upstreams "store" > pool`."""
    text, there = "", raw
    for number, part in enumerate(at):
        there = _step(there, part)
        if isinstance(part, int):
            text += f"[{part}]"
            name = there.get("name", there.get("id")) if isinstance(there, dict) else None
            if isinstance(name, str) and name.isprintable():
                text += f' "{name[:_LONGEST_NAME]}"'
        elif (at[0], number) in (("upstreams", 1), ("pipeline", 2)):
            text += f' "{key_shown(part)}"'
        else:
            text += f" > {key_shown(part)}" if text else key_shown(part)
    return text


def _step(value: Any, part: str | int) -> Any:
    try:
        return value[part]
    except (KeyError, IndexError, TypeError):
        return None
