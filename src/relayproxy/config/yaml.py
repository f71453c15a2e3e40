"""Reading YAML: values and where each of them stands. The only module that imports PyYAML.

Plain scalars are resolved as YAML 1.2's core schema does, which is what editors check: `on`, `yes` and `NO` are
text, `22:30` is text, `0600` is text. Must not know what the values are for.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

Path: TypeAlias = tuple[str | int, ...]

_DEEPEST = 40
_MOST_NODES = 200_000
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z"
)
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]")
_WORDS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a file: `line` and `column` count from 1, `length` in characters (at least 1)."""

    line: int
    column: int
    length: int = 1


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with the YAML itself: `code` names it, `hint` may be empty."""

    code: str
    message: str
    span: Span
    hint: str = ""


@dataclass(slots=True)
class Document:
    """A file's value, the places of its keys and values by path, and what is wrong with it.

    `plain` holds the paths of plain scalars with their text as written.
    """

    value: Any = None
    keys: dict[Path, Span] = field(default_factory=dict)
    values: dict[Path, Span] = field(default_factory=dict)
    plain: dict[Path, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


class _Loader(yaml.CSafeLoader):
    """Composes nodes with no opinion about plain scalars: every one is text until we look at it."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  (PyYAML's own class attribute)


def parse_scalar(text: str) -> Any:
    """Return what a plain scalar means in YAML 1.2's core schema."""
    if text in _NULLS:
        return None
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text, 0)
    if _FLOAT.match(text) and not _LEADING_ZERO.match(text):
        lowered = text.lower().replace(".inf", "inf").replace(".nan", "nan")
        return float(lowered)
    return text


def read(text: str) -> Document:
    """Parse one YAML document. Never raises: what is wrong is in `faults`."""
    document = Document()
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        document.faults.append(_syntax(text, error))
        return document
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        document.faults.append(_unreadable(text, error))
        return document
    finally:
        if loader is not None:
            loader.dispose()
    if node is not None:
        _Builder(document).build(node)
    return document


def _syntax(text: str, error: yaml.MarkedYAMLError) -> Fault:
    mark = error.problem_mark or error.context_mark
    span = Span(mark.line + 1, mark.column + 1) if mark else Span(1, 1)
    problem = (error.problem or "can't be read").replace("\n", " ")
    if "but found another document" in problem or "document start" in problem:
        return Fault("RP107", "the file holds more than one YAML document", span, "one file, one document")
    lines = text.splitlines()
    line = lines[span.line - 1] if span.line <= len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return Fault("RP107", "a tab in the indentation", span, "indent with blanks")
    context = f" {error.context}" if error.context else ""
    return Fault("RP107", f"not YAML:{context}: {problem}" if context else f"not YAML: {problem}", span)


def _unreadable(text: str, error: Exception) -> Fault:
    position = getattr(error, "position", None)
    if isinstance(position, int):
        before = text[:position]
        span = Span(before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1)
        return Fault("RP107", "a character that YAML doesn't allow", span)
    return Fault("RP107", f"not YAML: {type(error).__name__}", Span(1, 1))


class _Builder:
    """Turns nodes into values, noting places; bounded in depth and in number, aliases included."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._count = 0

    def build(self, node: yaml.Node) -> None:
        self._document.value = self._value(node, ())

    def _value(self, node: yaml.Node, path: Path) -> Any:
        self._count += 1
        span = _span(node)
        self._document.values[path] = span
        if self._count > _MOST_NODES or len(path) > _DEEPEST:
            if not any(fault.code == "RP107" for fault in self._document.faults):
                what = "deep" if len(path) > _DEEPEST else "large once its aliases are followed"
                self._document.faults.append(Fault("RP107", f"the document is too {what}", span))
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, number)) for number, item in enumerate(node.value)]
        text = str(node.value)
        plain = isinstance(node, yaml.ScalarNode) and not node.style
        if plain and (node.tag or "").endswith(":str"):
            self._document.plain[path] = text
            return parse_scalar(text)
        if not (node.tag or "").endswith(":str"):
            self._document.faults.append(Fault("RP107", f"the tag {node.tag} has no meaning here", span))
        return text

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key_node, value_node in node.value:
            span = _span(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self._document.faults.append(Fault("RP104", "a key must be text", span))
                continue
            key = str(key_node.value)
            if key == "<<":
                self._document.faults.append(Fault("RP104", "merge keys (<<) are not part of YAML 1.2", span))
                continue
            if key in value:
                first = self._document.keys[(*path, key)]
                self._document.faults.append(
                    Fault("RP103", f"key '{key}' is there twice", span, f"the first is in line {first.line}")
                )
                continue
            self._document.keys[(*path, key)] = span
            value[key] = self._value(value_node, (*path, key))
        return value


def _span(node: yaml.Node) -> Span:
    start, end = node.start_mark, node.end_mark
    length = end.column - start.column if end.line == start.line else 1
    return Span(start.line + 1, start.column + 1, max(1, length))


def walk(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every path of a value with what stands there, outermost first."""
    yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from walk(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from walk(item, (*path, number))


def dump(value: Any) -> str:
    """Write plain values as YAML, in their order."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False, width=100)
