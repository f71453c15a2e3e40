"""The tutorial shows code that is run elsewhere, links that lead somewhere, and packaging that works."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from relayproxy.catalogue import Catalogue

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs/writing-a-plugin.md", *sorted((ROOT / "docs/plugins").glob("*.md"))]
FENCE = re.compile(
    r"(?:<!-- from (?P<file>\S+) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
BLOCKS = [(page, found) for page in PAGES for found in FENCE.finditer(page.read_text())]


def blocks(language):
    return [
        pytest.param(page, found, id=f"{page.name}:{page.read_text()[: found.start()].count(chr(10)) + 1}")
        for page, found in BLOCKS
        if found["language"] == language
    ]


def test_every_block_says_its_language():
    assert [
        found[0] for _, found in BLOCKS if found["language"] not in {"python", "yaml", "sh", "toml"}
    ] == []
    assert len(blocks("python")) >= 5


@pytest.mark.parametrize(("page", "found"), blocks("python"))
def test_python_is_a_part_of_a_file_that_is_tested(page, found):
    assert found["file"], "put <!-- from FILE --> above the block"
    assert found["code"] in (ROOT / found["file"]).read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_pages_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        text = (page.parent / path).read_text() if path else page.read_text()
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}


def test_the_entry_point_of_the_tutorial_is_found(tmp_path, monkeypatch):
    ((_, found),) = [block.values for block in blocks("toml")]
    project = tomllib.loads(found["code"])["project"]
    points = project["entry-points"]["relayproxy"]
    metadata = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (metadata / "entry_points.txt").write_text(f"[relayproxy]\n{lines}")
    source = ROOT / "tests/plugins/tutorial/second/subject_words.py"
    (tmp_path / "relayproxy_subject_words.py").write_text(source.read_text())
    monkeypatch.syspath_prepend(tmp_path)
    plugin = Catalogue()["subject_words"]
    assert plugin.__name__ == "SubjectWords"
    monkeypatch.delitem(sys.modules, "relayproxy_subject_words")
