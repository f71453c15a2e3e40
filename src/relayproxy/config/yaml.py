"""Reading YAML: values and where each of them stands. The only module that imports PyYAML.

Plain scalars are resolved as YAML 1.2's core schema does, which is what editors check: `on`, `yes` and `NO` are
text, `22:30` is text, `0600` is text. Must not know what the values are for.
"""

import pathlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

from relayproxy.config.masking import key_shown
from relayproxy.config.syntax import Fault, Span, explain, forbidden_character

Path: TypeAlias = tuple[str | int, ...]

_DEEPEST = 40
_MOST_NODES = 200_000
_LONGEST = 4 * 2**20
_LONGEST_NUMBER = 40  # Python refuses to read integers of very many digits
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z"
)
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]")
_BREAKS = re.compile("[\x85\u2028\u2029]")
_WORDS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


@dataclass(slots=True)
class Document:
    """A file's value, the places of its keys and values by path, and what is wrong with it.

    `plain` holds the paths of plain scalars with their text as written. `readable` is False where the file has
    no value because it could not be parsed to its end.
    """

    value: Any = None
    keys: dict[Path, Span] = field(default_factory=dict)
    values: dict[Path, Span] = field(default_factory=dict)
    plain: dict[Path, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    readable: bool = True


class _Loader(yaml.CSafeLoader):
    """Composes nodes with no opinion about plain scalars: every one is text until we look at it."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  (PyYAML's own class attribute)


def parse_scalar(text: str) -> Any:
    """Return what a plain scalar means in YAML 1.2's core schema."""
    if text in _NULLS:
        return None
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= _LONGEST_NUMBER:
        if _INT.match(text):
            return int(text, 0)
        if _FLOAT.match(text) and not _LEADING_ZERO.match(text):
            lowered = text.lower().replace(".inf", "inf").replace(".nan", "nan")
            return float(lowered)
    return text


def read(text: str) -> Document:
    """Parse one YAML document. Never raises: what is wrong is in `faults`."""
    document = Document()
    fault = _unparsable(text)
    if fault is not None:
        document.faults.append(fault)
        document.readable = False
        return document
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:  # an alias to nothing; the events before were fine
        document.faults.append(explain(text, error))
        document.readable = False
        return document
    finally:
        loader.dispose()
    if node is not None:
        _Builder(document).build(node)
    return document


def read_file(path: pathlib.Path) -> Any:
    """Return the value of a YAML file (UTF-8). Raises OSError, and ValueError with file, line and column of a mistake."""
    document = read(path.read_text("utf-8"))
    if document.faults:
        fault = document.faults[0]
        raise ValueError(f"{path}:{fault.span.line}:{fault.span.column}: {fault.message}")
    return document.value


def _unparsable(text: str) -> Fault | None:
    """Return why a text can't be composed, or None.

    The composer in C recurses and ends the process on a file that is nested deeply enough, so the depth is
    counted in the events first.
    """
    if len(text) > _LONGEST:
        return Fault("RP107", "the file is larger than 4 MiB", Span(1, 1))
    fault = forbidden_character(text)
    if fault is not None:
        return fault
    depth = documents = 0
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > _DEEPEST:
                    return Fault("RP107", f"nested deeper than {_DEEPEST} levels", _start(event))
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            elif isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    return Fault(
                        "RP107",
                        "the file holds more than one YAML document",
                        _start(event),
                        "one file, one document: remove the ---",
                    )
    except yaml.MarkedYAMLError as error:
        return explain(text, error)
    except yaml.YAMLError:
        return Fault("RP107", "a character that YAML doesn't allow", Span(1, 1))
    return None


def _start(event: yaml.Event) -> Span:
    mark = event.start_mark
    assert mark is not None
    return Span(mark.line + 1, mark.column + 1)


class _Builder:
    """Turns nodes into values, noting places; bounded in depth and in number, aliases included."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._count = 0
        self._full = False

    def build(self, node: yaml.Node) -> None:
        self._document.value = self._value(node, ())
        if self._full:
            self._document.readable = False

    def _value(self, node: yaml.Node, path: Path) -> Any:
        self._count += 1
        span = _span(node)
        self._document.values[path] = span
        if self._count > _MOST_NODES or len(path) > _DEEPEST:
            self._overflow(span, len(path))
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, number)) for number, item in enumerate(node.value)]
        text = str(node.value)
        if not (node.tag or "").endswith(":str"):
            fault = Fault(
                "RP107", "tags (!) have no meaning here", span, "a text that begins with ! needs quotes"
            )
            self._document.faults.append(fault)
        elif not node.style:  # type: ignore[attr-defined]  # the stubs leave it out
            self._document.plain[path] = text
            return parse_scalar(text)
        return text

    def _overflow(self, span: Span, depth: int) -> None:
        """Refuse the document once; the places that would follow say nothing new."""
        if not self._full:
            what = "deep" if depth > _DEEPEST else "large"
            message = f"the document is too {what} once its aliases are followed"
            self._document.faults.append(Fault("RP107", message, span))
        self._full = True

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key_node, value_node in node.value:
            span = _span(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self._document.faults.append(Fault("RP104", "a key must be text", span))
                continue
            key = str(key_node.value)
            if key == "<<":
                hint = "an alias can stand for a whole value: limits: *usual"
                fault = Fault("RP104", "merge keys (<<) are not part of YAML 1.2", span, hint)
                self._document.faults.append(fault)
                continue
            if key in value:
                first = self._document.keys[(*path, key)]
                hint = f"the first is in line {first.line}"
                self._document.faults.append(
                    Fault("RP103", f"key '{key_shown(key)}' is there twice", span, hint)
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


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.2 readers would take for something else; PyYAML knows what 1.1 readers would."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if parse_scalar(text) == text else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def dump(value: Any) -> str:
    """Write plain values as YAML, in their order, one value in a line."""
    text = _dumped(value, unicode=True)
    # Written raw, these would be read as line breaks.
    return _dumped(value, unicode=False) if _BREAKS.search(text) else text


def _dumped(value: Any, *, unicode: bool) -> str:
    made = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=unicode, default_flow_style=False, width=2**20
    )
    assert isinstance(made, str)
    return made
