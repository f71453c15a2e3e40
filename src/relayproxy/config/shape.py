"""What the models look like from outside: which keys are known at a path, and what kind of value is wanted there.

The models are asked, not described a second time. Must not know files or values.
"""

import types
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from relayproxy.config.yaml import Path


def _bare(annotation: Any) -> Any:
    """Take off Annotated and None."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            rest = [arg for arg in get_args(annotation) if arg is not type(None)]
            models = [
                arg for arg in rest if isinstance(_bare(arg), type) and issubclass(_bare(arg), BaseModel)
            ]
            if len(rest) == 1 or models:
                annotation = (models or rest)[0]
            else:
                return annotation
        else:
            return annotation


def kind_at(root: type[BaseModel], path: Path) -> Any:
    """Return the bare annotation of what stands at `path` below `root`, or None where nothing is known."""
    kind: Any = root
    for part in path:
        kind = _bare(kind)
        origin = get_origin(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(part))
            if field is None:
                return None
            kind = field.annotation
        elif origin in (tuple, list, frozenset, set) and isinstance(part, int):
            kind = get_args(kind)[0]
        elif origin is dict:
            kind = get_args(kind)[1]
        else:
            return None
    return _bare(kind)


def keys_at(root: type[BaseModel], path: Path) -> list[str]:
    """Return the keys that are known in the mapping at `path`; empty where any key will do."""
    kind = kind_at(root, path)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return list(kind.model_fields)
    return []
