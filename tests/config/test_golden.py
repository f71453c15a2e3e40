"""Each kind of mistake and exactly what an admin reads about it. RELAYPROXY_GOLDEN=write renews the expectations."""

import os
from pathlib import Path

import pytest

from relayproxy.catalogue import Catalogue
from relayproxy.config.load import load, report

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.stem for path in GOLDEN.glob("*.yaml"))


NAMES = {
    "arc",
    "dkim_verify",
    "dmarc",
    "headers",
    "iprev",
    "ratelimit",
    "require_tls",
    "rules",
    "spf",
}  # dmarc reads three of them


def few(folders):
    """Return some plugins, so that a new one changes no expectation."""
    catalogue = Catalogue(folders)
    return {name: catalogue[name] for name in sorted(NAMES)}


@pytest.mark.parametrize("name", CASES)
def test_what_an_admin_reads(name, monkeypatch):
    monkeypatch.chdir(GOLDEN)
    loaded = load(Path(f"{name}.yaml"), environ={}, plugins=few)
    shown = report(loaded) + "\n"
    expected = GOLDEN / f"{name}.txt"
    if os.environ.get("RELAYPROXY_GOLDEN") == "write":
        expected.write_text(shown, "utf-8")
    assert loaded.problems
    assert (loaded.config is None) == any(problem.severity == "error" for problem in loaded.problems)
    assert shown == expected.read_text("utf-8")
    assert "hunter2" not in shown


def test_there_are_enough_kinds_of_mistakes():
    assert len(CASES) >= 100
