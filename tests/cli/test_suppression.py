"""The list and the rules from the command line."""

import csv
import io
import json

import pytest
from click.testing import CliRunner
from tests.bounces.messages import DSN, ORIGINAL

from relayproxy.cli.root import main
from relayproxy.suppression.sqlite import SqliteList

CONFIG = """\
version: 1
hostname: mx.example.org
listeners:
  - {name: inbound, listen: "127.0.0.1:2525"}
relay: {domains: [example.org], networks: [127.0.0.0/8]}
upstreams:
  store: {address: "127.0.0.1:2526"}
pipeline:
"""


@pytest.fixture
def run(tmp_path):
    def run(*words, code=0, given=None):
        result = CliRunner().invoke(main, [*words], input=given, catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result.output

    return run


@pytest.fixture
def listed(run, tmp_path):
    def listed(command, *words, **more):
        return run("suppression", command, "--file", str(tmp_path / "list.db"), *words, **more)

    return listed


def addresses(listed, *words):
    return [row["address"] for row in json.loads(listed("list", "--json", *words))]


def test_add_list_remove(listed):
    assert listed("add", "B@Example.org", "@bad.example", "--reason", "asked", "--days", "3") == "added 2\n"
    listed("add", "c@example.org", "--scope", "tenant:Shop")
    assert addresses(listed) == ["@bad.example", "b@example.org", "c@example.org"]
    assert addresses(listed, "--scope", "tenant:shop") == ["c@example.org"]
    assert addresses(listed, "EXAMPLE.org") == ["b@example.org", "c@example.org"]
    text = listed("list", "b@").split()
    assert text[:4] == ["b@example.org", "global", "manual", "until"]
    assert json.loads(listed("remove", "b@example.org", "--json")) == {"removed": 1}
    assert listed("remove", "b@example.org", code=1) == "removed 0\n"


def test_out_and_in_again_is_the_same(listed, run, tmp_path):
    listed("add", "a@example.org", "--reason", 'said "no",\nthen yes', "--days", "2")
    listed("add", "b@example.org", "--scope", "campaign:x")
    text = listed("export")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["address"] for row in rows] == ["a@example.org", "b@example.org"]
    other = str(tmp_path / "other.db")
    assert run("suppression", "import", "--file", other, "-", given=text) == "imported 2\n"
    assert run("suppression", "export", "--file", other) == text
    lines = listed("export", "--json").splitlines()
    assert [json.loads(line) for line in lines] == rows
    listed("export", "-o", str(tmp_path / "out.csv"))
    assert (tmp_path / "out.csv").read_text() == text


def test_a_plain_list_and_columns_in_another_order(listed):
    assert listed("import", "-", given="a@example.org\n\nb@example.org\n") == "imported 2\n"
    listed(
        "import",
        "-",
        "--scope",
        "tenant:t",
        given="\ufeffReason,Address,Expires\nx,c@example.org,2099-01-01\n",
    )
    (row,) = json.loads(listed("list", "--json", "c@"))
    assert (row["scope"], row["reason"], row["expires"], row["class"]) == (
        "tenant:t",
        "x",
        "2099-01-01T00:00:00Z",
        "imported",
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a@example.org\nnobody\n", "line 2: 'nobody' is neither an address nor @domain"),
        ("address,expires\na@example.org,soon\n", "line 2: 'soon' is no time"),
        ("address,scope\na@example.org,planet\n", "line 2: 'planet' is none of global"),
        ("reason,address\nx\n", "line 2: '' is neither"),
    ],
)
def test_one_bad_line_and_nothing_is_imported(listed, given, message):
    assert message in listed("import", "-", given=given, code=1)
    assert addresses(listed) == []


def test_what_is_no_address_or_scope(listed):
    assert "neither an address" in listed("add", "nobody", code=1)
    assert "is none of global" in listed("add", "a@b.example", "--scope", "tenant:", code=2)


def test_the_list_of_the_configuration(run, tmp_path):
    config = tmp_path / "relayproxy.yaml"
    config.write_text(CONFIG + "  - suppression: {file: mine.db}\n")
    run("suppression", "add", "-C", str(config), "a@example.org")
    store = SqliteList(tmp_path / "mine.db")
    assert [line.address for line in store.lines(0)] == ["a@example.org"]
    store.close()
    config.write_text(CONFIG + "  - iprev\n")
    assert "name the list with --file" in run("suppression", "list", "-C", str(config), code=1)


def test_a_list_that_is_none(run, tmp_path):
    (tmp_path / "text").write_text("no database " * 100)
    assert "can't be used" in run("suppression", "list", "--file", str(tmp_path / "text"), code=1)


def test_classify(run, tmp_path):
    (tmp_path / "dsn.eml").write_text(DSN.format(original=ORIGINAL))
    (tmp_path / "letter.eml").write_text("Subject: hello\n\nhello\n")
    rows = json.loads(run("bounces", "classify", "--json", str(tmp_path / "dsn.eml")))
    assert [(row["address"], row["class"], row["action"]) for row in rows] == [
        ("Gone@Example.net", "hard", "suppress"),
        ("slow@example.net", "delayed", "none"),
    ]
    assert "dsn hard suppress by no-such-mailbox" in run("bounces", "classify", str(tmp_path / "dsn.eml"))
    assert "none" in run("bounces", "classify", str(tmp_path / "letter.eml"), code=1)


def test_rules_are_printed_and_can_be_used(run, tmp_path):
    (tmp_path / "dsn.eml").write_text(DSN.format(original=ORIGINAL))
    (tmp_path / "rules.yaml").write_text(run("bounces", "rules"))
    run("bounces", "classify", "--rules", str(tmp_path / "rules.yaml"), str(tmp_path / "dsn.eml"))
    (tmp_path / "rules.yaml").write_text("version: 1\nrules: [{name: x}]\n")
    said = run(
        "bounces", "classify", "--rules", str(tmp_path / "rules.yaml"), str(tmp_path / "dsn.eml"), code=1
    )
    assert "rule 'x': `class` is one of" in said


def test_unknown_bounces(run, tmp_path):
    store = SqliteList(tmp_path / "list.db")
    store.note_unknown("odd *", "5.0.0", "odd 1", 1.0)
    store.close()
    assert run("bounces", "unknown", "--file", str(tmp_path / "list.db")).split() == [
        "1",
        "5.0.0",
        "odd",
        "1",
    ]
    (row,) = json.loads(run("bounces", "unknown", "--json", "--file", str(tmp_path / "list.db")))
    assert row == {"form": "odd *", "status": "5.0.0", "example": "odd 1", "seen": 1, "last": 1.0}


def test_a_list_on_a_server(run, tmp_path, new_database, monkeypatch):
    server = new_database()
    (host, port), *_ = server.hosts
    config = tmp_path / "relayproxy.yaml"
    place = f"postgresql://{host}:{port}/{server.database}"
    config.write_text(
        CONFIG
        + f"  []\nsuppression: {{url: '{place}', login: {server.login}, password: {{env: DB}}, tls: 'off'}}\n"
    )
    monkeypatch.setenv("DB", server.password)
    where = ("-C", str(config))
    run("suppression", "add", *where, "gone@far.example", "@spam.example", "--scope", "tenant:shop")
    exported = run("suppression", "export", *where)
    assert [row["address"] for row in csv.DictReader(io.StringIO(exported))] == [
        "@spam.example",
        "gone@far.example",
    ]
    run("suppression", "remove", *where, "gone@far.example")
    (row,) = json.loads(run("suppression", "list", "--json", *where))
    assert (row["address"], row["scope"]) == ("@spam.example", "tenant:shop")
    config.write_text(CONFIG + "  []\nsuppression: {url: 'postgresql://127.0.0.1:9/x'}\n")
    assert "refused" in run("suppression", "list", *where, code=1)
