"""Write docs/hooks.md from relayproxy.hookspecs, so that the page can't say what the code doesn't.

Reads names, arguments, types and docstrings of the hooks. Must not hold a fact about any single hook.
"""
# ruff: noqa: INP001  (a folder of pages is no package)

import ast
import inspect

from relayproxy import hookspecs
from relayproxy.hookspecs import DECIDE, IDENTIFY, LIFE, PREPARE, REPORT, REWRITE, SERVE, Hooks

_INTRO = """\
# Hooks

Every point at which a plugin can speak. The text of each is the docstring of its specification in
`relayproxy.hookspecs`; `docs/hooks_page.py` writes this page from there.

A hook is a function of that name, marked with `@hook`, in a module or in a class derived from `Plugin`. It takes
the arguments that it wants, by name, and leaves out the others. It may be `async def` and has to be where it waits.
What is made with these, step by step, is in [Writing a plugin](writing-a-plugin.md).
"""

_DECIDE = """\
Return a `Verdict` (`accept`, `discard`, `hold`, `defer` or `reject`) or None for no opinion. The strongest verdict of
a stage wins, and of equals the one that stands first in the pipeline. A decide hook can't edit."""
_IDENTIFY = "Return a login, or None for no opinion. The first login wins."
_PREPARE = "Return nothing, and wait for nothing."
_REWRITE = "Return one edit, several, or None. A rewrite hook can't refuse."
_REPORT = "Return nothing: all is decided."
_SERVE = "Called for a web request. Raising is a 503, and whoever asked tries again."
_LIFE = "Called for the plugin itself, not for a message. Return nothing."

_KINDS = (
    ("Decide", DECIDE, _DECIDE),
    ("Identify", IDENTIFY, _IDENTIFY),
    ("Prepare", PREPARE, _PREPARE),
    ("Rewrite", REWRITE, _REWRITE),
    ("Report", REPORT, _REPORT),
    ("Serve", SERVE, _SERVE),
    ("Life", LIFE, _LIFE),
)


def render() -> str:
    """Return the page. Raises ValueError for a hook without a kind or without a docstring."""
    specs = _specs()
    kinds = [name for _, names, _ in _KINDS for name in names]
    if sorted(kinds) != sorted(specs):
        raise ValueError(f"not every hook has one kind: {sorted(set(kinds) ^ set(specs))}")
    parts = [_INTRO, _table(specs)]
    for title, names, text in _KINDS:
        parts.append(f"## {title}\n\n{text}\n")
        parts.extend(_section(specs[name]) for name in names)
    return "\n".join(parts)


def _specs() -> dict[str, ast.FunctionDef]:
    """The specification of each hook as it is written, since types lose their names once evaluated."""
    (tree,) = ast.parse(inspect.getsource(hookspecs.Hooks)).body
    assert isinstance(tree, ast.ClassDef)
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def _table(specs: dict[str, ast.FunctionDef]) -> str:
    rows = ["| kind | hook | returns |", "|---|---|---|"]
    for title, names, _ in _KINDS:
        for spec in map(specs.__getitem__, names):
            returned = _type(spec.returns).replace("|", "\\|")
            link = f"[`{_heading(spec)}`](#{_anchor(spec)})"
            rows.append(f"| {title.lower()} | {link} | `{returned}` |")
    return "\n".join(rows) + "\n"


def _section(spec: ast.FunctionDef) -> str:
    text = inspect.getdoc(getattr(Hooks, spec.name))
    if not text:
        raise ValueError(f"the hook {spec.name} has no docstring")
    arguments = [f"- `{name}`: `{kind}`" for name, kind in _arguments(spec)]
    listed = "\n".join(arguments) + "\n\n" if arguments else ""
    return f"### {_heading(spec)}\n\n{text}\n\n{listed}Returns {_returns(spec)}.\n"


def _heading(spec: ast.FunctionDef) -> str:
    return f"{spec.name}({', '.join(name for name, _ in _arguments(spec))})"


def _anchor(spec: ast.FunctionDef) -> str:
    """The anchor that Markdown readers derive from the heading."""
    return _heading(spec).lower().translate({ord(c): None for c in "(),"}).replace(" ", "-")


def _arguments(spec: ast.FunctionDef) -> list[tuple[str, str]]:
    return [(argument.arg, _type(argument.annotation)) for argument in spec.args.args[1:]]


def _returns(spec: ast.FunctionDef) -> str:
    kind = _type(spec.returns)
    if kind == "None":
        return "nothing"
    meaning = _aliases().get(kind)
    return f"`{kind}`, which is `{meaning}`" if meaning else f"`{kind}`"


def _aliases() -> dict[str, str]:
    """What the module's own names for types stand for."""
    return {
        ast.unparse(node.target): ast.unparse(node.value)
        for node in ast.parse(inspect.getsource(hookspecs)).body
        if isinstance(node, ast.AnnAssign) and node.value and _type(node.annotation) == "TypeAlias"
    }


def _type(annotation: ast.expr | None) -> str:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return annotation.value
    return ast.unparse(annotation) if annotation is not None else "Any"
