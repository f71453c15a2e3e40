"""The messages of the conformance suites, as they would come over the wire: CRLF line ends, nothing else changed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

SUITES = Path(os.environ.get("RELAYPROXY_SUITES", Path(__file__).parents[2] / "shared" / "suites"))
_FILES = (
    ("chasquid-dkim", "*.msg"),
    ("dkimpy-data", "*.msg"),
    ("dkimpy-data", "*.message"),
    ("mail-auth", "*.eml"),
)
_PARTS = ("from_header", "to_header", "subject_header", "other_headers", "body")


def on_the_wire(data: bytes) -> bytes:
    """Return `data` with CRLF for every line end, and one at the end."""
    lines = data.replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n")
    return b"\r\n".join(lines) + b"\r\n"


def messages() -> list[object]:
    """Return every message as a parameter of a test; one that is skipped where there are no suites."""
    found = [pytest.param(on_the_wire(data), id=name) for name, data in _all()]
    return found or [pytest.param(b"", marks=pytest.mark.skip(f"there are no messages in {SUITES}"))]


def _all() -> Iterator[tuple[str, bytes]]:
    for suite, pattern in _FILES:
        for path in sorted((SUITES / suite).rglob(pattern)):
            yield str(path.relative_to(SUITES)), path.read_bytes()
    for path in sorted((SUITES / "arc-valimail" / "tests").glob("*.yml")):
        for number, scenario in enumerate(yaml.safe_load_all(path.read_text())):
            for name, test in (scenario or {}).get("tests", {}).items():
                yield f"{path.stem}:{number}:{name}", test["message"].encode("utf-8", "surrogateescape")
    cases = SUITES / "espoofer-cases" / "cases.json"
    if cases.exists():
        for name, case in json.loads(cases.read_text()).items():
            yield name, "".join(case["data"][part] for part in _PARTS).encode("latin-1", "replace")
