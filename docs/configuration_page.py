"""Write docs/reference/configuration.md from the models, so that the page has every key, default and meaning.

Reads fields, types and docstrings. Must not hold a fact about any single key.
"""
# ruff: noqa: INP001  (a folder of pages is no package)

import json
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from relayproxy.config.models import Common, Config, PipelineEntry

_INTRO = """\
# Configuration

One YAML file, `relayproxy.yaml`; [`config.example.yaml`](../../config.example.yaml) shows every key in its place.
This page is written by `make docs` from the same models that check the file.

Layers, each over the one before: defaults, the file, `conf.d/*.yaml` beside it in the order of their names, the
environment (`RELAYPROXY__DNS__TIMEOUT=2s`; double underscores nest, numbers count list elements, lists are written
`[a, b]`, and with `_FILE` behind the name the value is in a file), the command line. Mappings merge, anything else
replaces. `relayproxy config show --origin` says where each value is from.

YAML is read as version 1.2: `yes`, `no`, `on` and `off` are text, and so are `22:30` and `0600`. Unknown and duplicate
keys are errors; what each code means is in [Errors](../errors.md).

| written as | is |
|---|---|
| duration | a number and a unit: `250ms`, `30s`, `5m`, `1h30m`, `7d` |
| size | a number and a unit: `50 MB` (powers of 1000), `1 MiB`, `10M` (powers of 1024); a bare number counts octets |
| network | `10.0.0.0/8`, `fd00::/8`, or one address |
| address | `host:port`, `[v6]:port`, `unix:/path` |
| path | absolute, or starting at the folder of the file |
| secret | `{env: NAME}`, `{file: path}` (not readable by everybody), or `{credential: name}` (systemd) |
"""
_PIPELINE = """\
## pipeline[]

An entry is the name of a plugin, or the name with options: `- iprev`, `- iprev: {fail: defer, timeout: 2s}`. Beside its
own, every plugin takes these keys. `relayproxy plugin show NAME` prints the options of one.
"""


def render() -> str:
    """Return the page. Raises ValueError for a key without a docstring."""
    sections: dict[str, str] = {}
    _section("", Config, sections)
    return "\n".join([_INTRO, *sections.values()])


def _section(path: str, model: type[BaseModel], sections: dict[str, str]) -> None:
    """Add the table of a model, and those of the models below it, in the order of their keys."""
    if model is PipelineEntry:
        model, lead = Common, _PIPELINE
    else:
        lead = f"## {path or 'Top level'}\n\n{model.__doc__}\n"
    schema = model.model_json_schema()
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    below: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        if not field.description:
            raise ValueError(f"{model.__name__}.{name} has no docstring")
        kind = _kind(schema["properties"][name], schema.get("$defs", {}))
        text = " ".join(field.description.split()).replace("|", "\\|")
        rows.append(f"| `{name}` | {kind} | {_default(field)} | {text} |")
        inner = _model(field.annotation)
        if inner is not None:
            below.append((f"{path}.{name}".lstrip(".") + _shape(field.annotation), inner))
    sections[path] = f"{lead}\n" + "\n".join(rows) + "\n"
    for place, inner in below:
        if path and place.endswith(".limits"):
            continue  # the same keys as at the top
        _section(place, inner, sections)


def _model(annotation: Any) -> type[BaseModel] | None:
    """Return the model in an annotation, whatever holds it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    arguments = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    return next((found for found in map(_model, arguments) if found is not None), None)


def _shape(annotation: Any) -> str:
    return "[]" if get_origin(annotation) is tuple else ".NAME" if get_origin(annotation) is dict else ""


def _kind(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Say what a key takes, in a few words."""
    if "$ref" in schema:
        return _kind(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "enum" in schema:
        return ", ".join(dict.fromkeys(f"`{value}`" for value in schema["enum"]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("title", "")[:1].islower():
        return str(schema["title"])
    if "anyOf" in schema:
        kinds = dict.fromkeys(
            _kind(item, definitions) for item in schema["anyOf"] if item.get("type") != "null"
        )
        return " or ".join(kinds)
    match schema.get("type"):
        case "array":
            inner = _kind(schema.get("items", {}), definitions)
            return f"list of {inner}" if inner else "list"
        case "object":
            inner = schema.get("additionalProperties")
            return f"mapping of name to {_kind(inner, definitions)}" if isinstance(inner, dict) else "mapping"
        case "integer":
            return "number"
        case "boolean":
            return "`true`, `false`"
        case "string":
            return "text"
    return ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**needed**"
    if field.default_factory is not None and _model(field.annotation) is None:
        value = field.get_default(call_default_factory=True)
        return (
            "" if isinstance(value, str) else f"`{json.dumps(value)}`"
        )  # a text that is made is this machine's
    value = field.default
    if value is None or _model(field.annotation) is not None:
        return ""
    written = TypeAdapter(
        Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    )
    return f"`{_yaml(written.dump_python(value, mode='json'))}`"


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value).replace('"', "")
