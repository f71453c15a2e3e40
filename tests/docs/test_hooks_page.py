import importlib.util
import inspect
from pathlib import Path

import pytest

from relayproxy.hookspecs import PROJECT, Hooks

DOCS = Path(__file__).parents[2] / "docs"
SPECS = {name: f for name, f in vars(Hooks).items() if hasattr(f, f"{PROJECT}_spec")}


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("hooks_page", DOCS / "hooks_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_code_says(generator):
    assert (DOCS / "hooks.md").read_text() == generator.render(), "run: make docs"


def test_there_are_hooks():
    assert {"connect", "mail", "message", "before_forward", "after_forward", "startup"} <= set(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_each_hook_has_its_heading_with_all_arguments(name):
    arguments = ", ".join(list(inspect.signature(SPECS[name]).parameters)[1:])
    lines = (DOCS / "hooks.md").read_text().splitlines()
    assert f"### {name}({arguments})" in lines


@pytest.mark.parametrize("name", SPECS)
def test_each_hook_says_what_it_is_for(name):
    assert inspect.getdoc(SPECS[name]) in (DOCS / "hooks.md").read_text()


def test_links_lead_to_headings():
    page = (DOCS / "hooks.md").read_text()
    kept = str.maketrans({"(": None, ")": None, ",": None, " ": "-"})
    anchors = {line[4:].lower().translate(kept) for line in page.splitlines() if line.startswith("### ")}
    links = {part.partition(")")[0] for part in page.split("](#")[1:]}
    assert links == anchors
    assert len(links) == len(SPECS)


def test_a_hook_of_no_kind_is_noticed(generator, monkeypatch):
    monkeypatch.setattr(generator, "_KINDS", generator._KINDS[1:])
    with pytest.raises(ValueError, match="connect"):
        generator.render()
