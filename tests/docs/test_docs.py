"""The pages say what the program does: configurations load, generated pages are current, names exist, set-ups work."""

import configparser
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.servers.client import Client
from tests.servers.compare import relays_named, trace_above
from tests.servers.process import Process, free_port
from tests.servers.relay import Relay

from relayproxy.catalogue import Catalogue
from relayproxy.config.load import load, report
from relayproxy.testing.mail import make_mail, run_hook

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src/relayproxy"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
EVENT = re.compile(
    r"""(?:\blog|\b_log)\.(?:debug|info|warning|error)\(\s*"([a-z_]+)"|"event": "([a-z_]+)","""
)


AROUND_RULES = """\
version: 1
listeners: [{name: inbound, listen: "127.0.0.1:2525"}]
relay: {domains: [example.net]}
upstreams: {mailstore: {address: "127.0.0.1:2526"}, archive: {address: "127.0.0.1:2527"}}
routes: [{upstream: mailstore}]
spool: {url: "sqlite:////var/lib/relayproxy/spool.db"}
state: {url: "sqlite:////var/lib/relayproxy/state.db"}
pipeline: [iprev, spf, dkim_verify, arc, dmarc, rules, greylist]
"""


def blocks(language, pages=PAGES):
    return [
        pytest.param(
            page, found["code"], id=f"{page.name}:{page.read_text()[: found.start()].count(chr(10)) + 1}"
        )
        for page in pages
        for found in FENCE.finditer(page.read_text())
        if found["language"] == language
    ]


# -- all pages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "code"), blocks("yaml"))
def test_every_configuration_is_whole_and_has_no_mistake(page, code, tmp_path):
    shutil.copytree(ROOT / "plugins", tmp_path / "plugins")
    file = tmp_path / "relayproxy.yaml"
    if page.name == "cookbook.md":
        code = AROUND_RULES + code
    file.write_text(code.replace("/var/lib/relayproxy", str(tmp_path)))
    if "subject_words:\n      words: [lottery, jackpot]" in code:
        # The tutorial's own plugin, which the page has just made.
        shutil.copy(ROOT / "tests/plugins/tutorial/second/subject_words.py", tmp_path / "plugins")
    loaded = load(file, environ={})
    assert loaded.config is not None, report(loaded)
    # RP706: nobody may send anywhere yet, which is what pages about something else leave open.
    assert {problem.code for problem in loaded.problems} <= {"RP706"}, report(loaded)


def test_every_policy_of_the_cookbook_comes_with_its_tests():
    policies = blocks("yaml", [DOCS / "cookbook.md"])
    assert len(policies) >= 25
    for policy in policies:
        assert "\ntests:\n" in policy.values[1], policy.id


def test_there_are_configurations():
    assert len(blocks("yaml")) >= 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_pages_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        place = page.parent / path if path else page
        assert place.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", place.read_text(), re.MULTILINE)
            kept = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in kept, target


def test_every_page_is_reached_from_the_index():
    reached = {DOCS / "index.md"}
    todo = list(reached)
    while todo:
        page = todo.pop()
        links = re.findall(r"\]\(([^)#\s]+\.md)", page.read_text())
        found = {(page.parent / link).resolve() for link in links} - reached
        reached |= found
        todo += found
    assert {page.resolve() for page in DOCS.rglob("*.md")} - reached == set()


@pytest.mark.parametrize("name", ["cli", "metrics"])
def test_the_page_is_what_the_code_says(name):
    # In a process of its own: a command remembers how it was asked for help the first time.
    code = f"from docs import {name}_page; print({name}_page.render(), end='')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (DOCS / f"{name}.md").read_text() == done.stdout, "run: make docs"


# -- the readme --------------------------------------------------------------------------------------------------


def test_the_readme_opens_with_the_two_commands():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert [line.split("#")[0].strip() for line in lines[2:4]] == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    assert "\ndemo:" in makefile
    assert "\ntest:" in makefile


def test_the_readme_promises_no_more_lines_than_it_shows():
    (yaml,) = blocks("yaml", [ROOT / "README.md"])
    assert len(yaml.values[1].splitlines()) <= 12


def test_the_plugin_of_the_readme_works(tmp_path):
    (python,) = blocks("python", [ROOT / "README.md"])
    (tmp_path / "capitals.py").write_text(python.values[1])
    cls = Catalogue([tmp_path])["capitals"]
    plugin = cls(cls.settings())
    loud = run_hook(plugin, "message", mail=make_mail(b"Subject: BUY NOW\r\n\r\n"))
    assert str(loud.reply) == "550 5.7.1 Please write the subject in small letters"
    assert run_hook(plugin, "message", mail=make_mail(b"Subject: hello\r\n\r\n")) is None


# -- names that must exist -----------------------------------------------------------------------------------------


def _paragraphs(page):
    for block in re.split(r"\n\s*\n|\n(?=[|]|\d\. )", page.read_text()):
        yield re.findall(r"`([^`\s]+)`", block)


def test_the_flow_names_files_and_functions_that_exist():
    seen = 0
    file = ""
    for spans in _paragraphs(DOCS / "flow.md"):
        for span in spans:
            if span.endswith(".py"):
                file = span
                assert (SOURCE / file).is_file(), span
            elif file and span.endswith("()"):
                assert re.search(rf"def {span[:-2]}\b", (SOURCE / file).read_text()), f"{file}: {span}"
                seen += 1
    assert seen > 30


def test_every_event_of_the_log_is_explained():
    emitted = {
        name
        for path in SOURCE.rglob("*.py")
        if "cli/demo" not in str(path) and "testing" not in path.parts
        for pair in EVENT.findall(path.read_text())
        for name in pair
        if name
    }
    page = (DOCS / "operations.md").read_text()
    explained = set(re.findall(r"^\| `([a-z_]+)` \| (?:debug|info|warning|error|any) \|", page, re.MULTILINE))
    assert emitted - explained == set()
    assert explained - emitted - {"log"} == set()


def test_every_refusal_is_one_that_is_given():
    source = "".join(
        path.read_text()
        for folder in ("core", "server", "delivery", "smtp", "spool")
        for path in (SOURCE / folder).glob("*.py")
    )
    rows = re.findall(
        r"^\| `([245]\d\d) ([245]\.\d+\.\d+) ([^`]+)` \|", (DOCS / "security.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 30
    for code, status, words in rows:
        longest = max(re.split(r"NAME|Message has |: |, ", words), key=len).strip()
        assert longest in source, words
        assert f'"{status}"' in source, (code, status)


def test_the_capabilities_page_has_every_keyword_of_ehlo():
    page = (DOCS / "specifications.md").read_text()
    greeting = (SOURCE / "core/greeting.py").read_text().partition("def _greeting")[2].partition("def ")[0]
    keywords = set(re.findall(r'"([A-Z0-9]{4,})\b', greeting)) | {"SIZE", "LIMITS"}
    assert {word for word in keywords if word not in page} == set()
    assert {"PIPELINING", "CHUNKING", "8BITMIME", "REQUIRETLS", "XCLIENT"} <= keywords


# -- the systemd unit ----------------------------------------------------------------------------------------------

UNIT = ROOT / "contrib/relayproxy.service"


def _unit():
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read_string(UNIT.read_text())
    return parser


def test_the_unit_says_what_the_program_keeps():
    service = _unit()["Service"]
    assert service["Type"] == "notify"
    assert service["ExecReload"].endswith("relayproxy reload")
    assert service["RestartPreventExitStatus"] == "78"
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == "CAP_NET_BIND_SERVICE"
    assert service["RuntimeDirectory"] == "relayproxy"
    assert int(service["TimeoutStopSec"]) > 60
    for key in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "MemoryDenyWriteExecute", "RestrictSUIDSGID"):
        assert service[key] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert {"AF_INET", "AF_INET6", "AF_UNIX"} == set(service["RestrictAddressFamilies"].split())


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze not installed")
def test_systemd_takes_the_unit(tmp_path):
    program = Path(sys.executable).with_name("relayproxy")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/relayproxy/bin/relayproxy", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(copy)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "unrecognized option" not in done.stderr:
        assert done.returncode == 0, done.stdout[-200:]


_LOCKED = """\
import ctypes, mmap, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""


async def test_it_runs_where_no_memory_may_become_a_program(short_folder):
    """PR_SET_MDWE (Linux 6.3) is what MemoryDenyWriteExecute= asks for; signing and two workers included."""
    demo = Process("demo", short_folder / "log")
    program = Path(sys.executable).with_name("relayproxy")
    ports = [str(free_port()) for _ in range(2)]
    demo.spawn(
        *(sys.executable, "-c", _LOCKED, str(program), "demo", "--workers", "2"),
        *("--port", ports[0], "--page", ports[1]),
        env={"TMPDIR": str(short_folder)},
    )
    try:
        await demo.until_logged("accepted  <> -> ana@demo.example")
    except pytest.fail.Exception:
        if demo.popen.poll() == 77:
            pytest.skip("this kernel has no PR_SET_MDWE")
        raise
    demo.signal(signal.SIGTERM)
    assert await demo.until_ended() == 0
    assert "Traceback" not in demo.log


# -- the quick start, with real servers -----------------------------------------------------------------------------

MESSAGE = (
    b"From: a@example.org\r\nTo: ana@example.net\r\nDate: Tue, 24 Nov 2026 08:00:00 +0000\r\n"
    b"Subject: quick\r\n\r\nHello\r\n.dot\r\n"
)
# The fixture's own defaults, but trusting only the one address that relayproxy comes from.
TRUSTED = {
    "mynetworks": "127.0.0.1/32",
    "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
}


def _section(letter):
    """The yaml and the master.cf of one way: services in their order, each with its options."""
    text = (DOCS / "quick-start.md").read_text()
    part = text.partition(f"\n## {letter}. ")[2].partition("\n## ")[0]
    found = {
        match["language"]: match["code"]
        for match in FENCE.finditer(part)
        if match["language"] in ("yaml", "cf")
    }
    services = {}
    for line in found["cf"].splitlines():
        if line.startswith("  -o "):
            key, _, value = line.removeprefix("  -o ").partition("=")
            services[list(services)[-1]][key] = value
        else:
            services[line.split()[0]] = {}
    return found["yaml"], services


def _configured(relay, yaml, changes):
    """Write the page's configuration with addresses that are free here, and DNS that answers nothing."""
    for old, new in {"example.com": "example.net", "mx.example.net": "relay.test", **changes}.items():
        assert old in yaml
        yaml = yaml.replace(old, new)
    relay.write(
        f"{yaml}dns: {{servers: ['127.0.0.1:1'], timeout: 200ms}}\nmetrics: {{listen: 'off'}}\n"
        f"control: {{socket: {relay.folder}/control.sock}}\n"
    )


@pytest.mark.servers
async def test_way_a_as_the_page_says(relay: Relay, start_postfix, certificates):
    yaml, services = _section("A")
    ((name, options),) = services.items()
    postfix = await start_postfix(services={"behind": options}, settings=TRUSTED)
    changes = {
        "0.0.0.0:25": f"127.0.0.1:{relay.port}",
        name: f"127.0.0.1:{postfix.port_of('behind')}",
        "/etc/relayproxy/tls/fullchain.pem": str(certificates.server),
        "/etc/relayproxy/tls/privkey.pem": str(certificates.server_key),
    }
    _configured(relay, yaml, changes)
    await relay.start()
    async with await Client.open(relay.port, source="127.0.0.9") as client:
        answer = await client.message(MESSAGE, recipients=("ana@example.net",))
        assert answer.code == 250, answer
        assert "queued as" in answer.text
        mail, rcpt = await client.envelope(recipients=("nobody@example.net",))
        assert (mail.code, rcpt.code, rcpt.enhanced) == (250, 550, "5.1.1")
        assert (await client.say("RCPT TO:<x@elsewhere.example>")).text.endswith("Relaying denied")
    await postfix.until_logged("status=sent")
    (received,) = postfix.delivered("ana")
    assert relays_named(trace_above(received, MESSAGE)) == 1
    behind = [line for line in postfix.log.splitlines() if "postfix/behind/smtpd" in line]
    assert any("client=unknown[127.0.0.9]" in line for line in behind)


@pytest.mark.servers
async def test_way_b_as_the_page_says(relay: Relay, start_postfix):
    yaml, services = _section("B")
    (_, front), (name, reinject) = services.items()
    front = {**front, "smtpd_proxy_filter": f"127.0.0.1:{relay.port}"}
    postfix = await start_postfix(smtpd_options=front, services={"reinject": reinject}, settings=TRUSTED)
    changes = {"127.0.0.1:10025": f"127.0.0.1:{relay.port}", name: f"127.0.0.1:{postfix.port_of('reinject')}"}
    _configured(relay, yaml, changes)
    await relay.start()
    async with await Client.open(postfix.port, source="127.0.0.9") as client:
        answer = await client.message(MESSAGE, recipients=("ana@example.net",))
        assert answer.code == 250, answer
        _, rcpt = await client.envelope(recipients=("x@elsewhere.example",))
        assert rcpt.code == 554
    await postfix.until_logged("status=sent")
    (received,) = postfix.delivered("ana")
    assert relays_named(trace_above(received, MESSAGE)) == 1
    again = [line for line in postfix.log.splitlines() if "postfix/reinject/smtpd" in line]
    assert any("client=unknown[127.0.0.9]" in line for line in again)
    (event,) = [event for event in relay.events if event["event"] == "message"]
    assert (event["ip"], event["direction"]) == ("127.0.0.9", "inbound")
