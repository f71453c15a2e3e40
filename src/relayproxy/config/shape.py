"""What the models look like from outside: which keys are known at a path, and what kind of value is wanted there.

The models are asked, not described a second time. Must not know files or places.
"""

import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, PlainValidator, WrapValidator

from relayproxy.config.values import one_or_many
from relayproxy.config.yaml import Path
from relayproxy.model.refused import quoted

_CHANGES_INPUT = (BeforeValidator, PlainValidator, WrapValidator)
_TRUE, _FALSE = frozenset({"yes", "on", "y", "true"}), frozenset({"no", "off", "n", "false"})
_NUMBERS = frozenset({int, float})
_LOOKS_1_1 = re.compile(r"[-+]?(?:0[0-9]+|[0-9][0-9_]*_[0-9_]*|[0-9]+(?::[0-5]?[0-9])+)\Z", re.ASCII)
_SEQUENCES = (tuple, list, frozenset, set)


class Misread(NamedTuple):
    """A value that pydantic would bend into the kind that is wanted, and that we refuse to guess about."""

    path: Path
    code: str
    message: str
    hint: str


def _alternatives(annotation: Any) -> list[Any]:
    """Return the kinds that an annotation allows, without Annotated and None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [kind for arg in get_args(annotation) for kind in _alternatives(arg)]
    return [] if annotation is type(None) else [annotation]


def _metadata(annotation: Any) -> Iterator[Any]:
    """Yield what is attached to an annotation, or to one of its alternatives."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from get_args(annotation)[1:]
        yield from _metadata(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for arg in get_args(annotation):
            yield from _metadata(arg)


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [
        kind for kind in _alternatives(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)
    ]


def _below(annotation: Any, part: str | int) -> Any:
    """Return the annotation of a key or an element, or None where nothing is known."""
    for kind in _alternatives(annotation):
        arguments = get_args(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(part))
            if field is not None:
                return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        elif get_origin(kind) is dict and arguments:
            return arguments[1]
        elif get_origin(kind) in _SEQUENCES and arguments and isinstance(part, int):
            fixed = get_origin(kind) is tuple and Ellipsis not in arguments
            return arguments[min(part, len(arguments) - 1)] if fixed else arguments[0]
    return None


def kind_at(root: Any, path: Path) -> list[Any]:
    """Return the kinds of value that are wanted at `path` below `root`; empty where nothing is known."""
    kind: Any = root
    for part in path:
        kind = _below(kind, part)
        if kind is None:
            return []
    return _alternatives(kind)


def keys_at(root: Any, path: Path) -> list[str]:
    """Return the keys that are known in the mapping at `path`; empty where any key will do."""
    return [name for kind in kind_at(root, path) for model in _models(kind) for name in model.model_fields]


def wants_list(root: Any, path: Path) -> bool:
    """Whether a list belongs at `path`."""
    return any(get_origin(kind) in _SEQUENCES for kind in kind_at(root, path))


def misread(annotation: Any, value: Any, path: Path = ()) -> Iterator[Misread]:
    """Yield what lax validation would take for something else: `yes` for true, `0600` for 600, true for 1.

    Where a model reads its input itself (a validator before pydantic's own), it is trusted.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            below = _below(annotation, key)
            if below is not None:
                yield from misread(below, item, (*path, key))
        return
    if isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            below = _below(annotation, number)
            if below is not None:
                yield from misread(below, item, (*path, number))
        return
    metadata = list(_metadata(annotation))
    if one_or_many in metadata:
        yield from misread(_below(annotation, 0), value, path)
    elif not any(isinstance(item, _CHANGES_INPUT) for item in metadata):
        found = _judge(value, frozenset(map(_hashable, _alternatives(annotation))))
        if found is not None:
            yield Misread(path, *found)


def _hashable(kind: Any) -> Any:
    return kind if isinstance(kind, type) else object


def _judge(value: Any, kinds: frozenset[Any]) -> tuple[str, str, str] | None:
    """Return what is wrong with a scalar where only booleans or only numbers are wanted."""
    if kinds == {bool}:
        return _no_boolean(value)
    if not kinds or not kinds <= _NUMBERS:
        return None
    if isinstance(value, bool):
        return "RP110", f"a number is wanted, and this is {str(value).lower()}", ""
    if not isinstance(value, str):
        return None
    if _LOOKS_1_1.match(value):
        plain = value.replace("_", "").lstrip("0")
        hint = f"write {plain}" if plain.isdigit() else "write a plain number"
        return "RP106", f"{quoted(value)} is a number in YAML 1.1 only; here it is text", hint
    hint = "write it without quotes" if value.isdigit() else ""
    return "RP110", "a number is wanted, and this is text", hint


def _no_boolean(value: Any) -> tuple[str, str, str] | None:
    if isinstance(value, str):
        word = value.lower()
        if word in _TRUE or word in _FALSE:
            return "RP105", f"{quoted(value)} is text in YAML 1.2", f"write {str(word in _TRUE).lower()}"
        return "RP110", "true or false is wanted, and this is text", ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "RP105", f"{quoted(value)} is a number", "write true or false"
    return None
