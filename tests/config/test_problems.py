"""How problems are written for people and for machines, and that every code is explained."""

import json
import re
from pathlib import Path

from relayproxy.config import checks
from relayproxy.config.codes import CODES
from relayproxy.config.problems import Problem, count_line, guesses, render

ERROR = Problem(
    "RP101",
    "error",
    "relayproxy.yaml",
    12,
    7,
    "unknown key 'rejct'",
    'rules[0] "no big mail" > do',
    "did you mean 'reject'?",
    "      rejct: {code: 550}",
    6,
    5,
)
WARNING = Problem("RP109", "warning", "RELAYPROXY_HOSTNAME", 0, 0, "has no effect")


def test_an_error_looks_like_this():
    assert render([ERROR, WARNING]) == (
        "relayproxy.yaml:12:7: error[RP101]: unknown key 'rejct' in rules[0] \"no big mail\" > do\n"
        "   |\n"
        "12 |       rejct: {code: 550}\n"
        "   |       ^^^^^\n"
        "   = hint: did you mean 'reject'?\n"
        "   = help: relayproxy help RP101\n"
        "\n"
        "RELAYPROXY_HOSTNAME: warning[RP109]: has no effect\n"
        "  = help: relayproxy help RP109\n"
        "\n"
        "1 error, 1 warning"
    )


def test_colour_changes_nothing_but_colour():
    colored = render([ERROR, WARNING], color=True)
    assert "\x1b[31m" in colored
    assert re.sub(r"\x1b\[\d+m", "", colored) == render([ERROR, WARNING])


def test_json_has_all_but_the_line_itself():
    first, second = json.loads(render([ERROR, WARNING], "json"))
    assert first == {
        "code": "RP101",
        "severity": "error",
        "file": "relayproxy.yaml",
        "line": 12,
        "column": 7,
        "message": "unknown key 'rejct'",
        "where": 'rules[0] "no big mail" > do',
        "hint": "did you mean 'reject'?",
    }
    assert second["line"] == 0


def test_annotations_can_not_be_broken_out_of():
    evil = Problem("RP210", "error", "a,b:c.yaml", 1, 2, "100%\n::error::x", hint="h")
    assert render([evil], "github") == (
        "::error file=a%2Cb%3Ac.yaml,line=1,col=2,title=RP210::100%25%0A::error::x (h)"
    )
    assert render([WARNING], "github") == "::warning file=RELAYPROXY_HOSTNAME,title=RP109::has no effect"


def test_guesses():
    assert guesses("rejct", ["reject", "tag"]) == "did you mean 'reject'?  (known here: reject, tag)"
    assert guesses("zzz", ["reject"]) == "(known here: reject)"
    assert (
        guesses("LISTENERS", ["listeners"], "keys here")
        == "did you mean 'listeners'?  (keys here: listeners)"
    )
    assert guesses("zzz", [f"name{n}" for n in range(9)]) == ""
    assert guesses("nam", ["name1", "name2", "name3", "name4"] + ["x"] * 9).count("'name") == 3


def test_the_count():
    assert count_line([]) == "0 errors, 0 warnings"
    assert count_line([ERROR, WARNING, WARNING]) == "1 error, 2 warnings"


def test_every_code_that_is_used_is_explained_and_the_other_way_round():
    folder = Path(checks.__file__).parent
    files = [
        *folder.glob("*.py"),
        *(folder.parent / "rules").glob("*.py"),
        folder.parent / "secrets.py",
    ]
    text = "".join(path.read_text("utf-8") for path in files if path.name != "codes.py")
    assert set(re.findall(r'"(RP\d{3})"', text)) == set(CODES)
