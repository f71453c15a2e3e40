"""The table of what is shown names tests that exist, all thirty lines of it."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reliability.md"
ROWS = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@cache
def functions_of(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, functions))


def test_all_thirty_are_there():
    assert [int(number) for number, *_ in ROWS] == list(range(1, 31))


@pytest.mark.parametrize(("number", "tests"), [(row[0], row[2]) for row in ROWS])
def test_the_tests_exist(number: str, tests: str):
    named = NAMED.findall(tests)
    assert named, f"line {number} names no test"
    assert tests.count("::") == len(named)
    missing = [f"{path}::{name}" for path, name in named if name not in functions_of(path)]
    assert missing == []


def test_what_is_for_the_night_is_run_then():
    recipe = (ROOT / "Makefile").read_text().partition("nightly: $(STAMP)")[2].partition("\n\n")[0]
    for number, _, tests, when in ROWS:
        if "night" in when.split(", "):
            assert any(
                path in recipe or str(Path(path).parent) in recipe.split() for path, _ in NAMED.findall(tests)
            ), f"line {number} is not in `make nightly`"
