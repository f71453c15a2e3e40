import json
import socket
import threading

import dns.message
import dns.rrset
import pytest
from click.testing import CliRunner

from relayproxy.api import DnsStatus
from relayproxy.builtin._dkim_files import find_keys
from relayproxy.cli.dkim import compared, dkim
from relayproxy.mailauth.audit.report import Record
from relayproxy.mailauth.dkim_keys import new_ed25519_key, new_rsa_key, read_key
from relayproxy.testing import FakeResolver

RSA, OTHER, ED25519 = new_rsa_key(), new_rsa_key(), new_ed25519_key()

CONFIG = """\
version: 1
hostname: mx.example.org
listeners: [{name: in, listen: 127.0.0.1:2525}]
relay: {networks: [127.0.0.0/8]}
upstreams: {out: {address: 127.0.0.1:2526}}
dns: {servers: ["127.0.0.1:%d"]}
pipeline:
  - dkim_sign:
      keys: mykeys
      sign: [{domain: example.com, selector: one, key: one.pem}]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, key in (
        ("mykeys/example.org/a.key", RSA),
        ("mykeys/example.org/b.key", ED25519),
        ("one.pem", RSA),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(key.pem())
        (tmp_path / name).chmod(0o600)
    return tmp_path


def run(*arguments, code=0):
    done = CliRunner().invoke(dkim, arguments)
    assert done.exit_code == code, done.output
    return done


def strings(line):
    name, _, rest = line.partition(". 3600 IN TXT ( ")
    parts = rest.removesuffix(" )").strip('"').split('" "')
    assert all(len(part) <= 255 for part in parts)
    return name, "".join(parts)


def test_keygen_makes_two_keys_and_their_records(tmp_path):
    done = run("keygen", "Example.org", "--folder", str(tmp_path / "keys"), "--selector", "x")
    rsa, ed25519 = (tmp_path / "keys/example.org" / f"x-{kind}.key" for kind in ("rsa", "ed25519"))
    assert [path.stat().st_mode & 0o777 for path in (rsa, ed25519, rsa.parent)] == [0o600, 0o600, 0o700]
    assert [read_key(path.read_bytes()).bits for path in (rsa, ed25519)] == [2048, 256]
    assert dict(map(strings, done.stdout.splitlines())) == {
        "x-rsa._domainkey.example.org": read_key(rsa.read_bytes()).record(),
        "x-ed25519._domainkey.example.org": read_key(ed25519.read_bytes()).record(),
    }
    assert "PRIVATE" not in done.output
    assert [(file.domain, file.selector) for file in find_keys(tmp_path / "keys")] == [
        ("example.org", "x-ed25519"),
        ("example.org", "x-rsa"),
    ]


def test_keygen_may_make_one_key(tmp_path):
    run(
        "keygen",
        "example.org",
        "--folder",
        str(tmp_path),
        "--selector",
        "x",
        "--type",
        "rsa",
        "--bits",
        "3072",
    )
    assert [path.name for path in (tmp_path / "example.org").iterdir()] == ["x.key"]
    assert read_key((tmp_path / "example.org/x.key").read_bytes()).bits == 3072


def test_keygen_takes_the_folder_of_the_configuration(folder):
    (folder / "relayproxy.yaml").write_text(CONFIG % 53)
    run("keygen", "exämple.org", "--type", "ed25519")
    (made,) = (folder / "mykeys/xn--exmple-cua.org").iterdir()
    assert made.stem.isdecimal()


def test_keygen_without_a_configuration_makes_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("keygen", "example.org", "--type", "ed25519", "--selector", "x")
    assert (tmp_path / "keys/example.org/x.key").is_file()


def test_keygen_never_writes_over_a_key(tmp_path):
    arguments = ("keygen", "example.org", "--folder", str(tmp_path), "--selector", "x")
    run(*arguments)
    before = {path: path.read_bytes() for path in (tmp_path / "example.org").iterdir()}
    (tmp_path / "example.org/x-rsa.key").unlink()
    assert "there already" in run(*arguments, code=1).output
    del before[tmp_path / "example.org/x-rsa.key"]
    assert {path: path.read_bytes() for path in (tmp_path / "example.org").iterdir()} == before


@pytest.mark.parametrize("arguments", [("a..b",), ("../x",), ("example.org", "--selector", "../x")])
def test_keygen_refuses_names_that_are_none(tmp_path, arguments):
    run("keygen", *arguments, "--folder", str(tmp_path / "keys"), code=1)
    assert list(tmp_path.rglob("*")) == []


def test_list_shows_all_keys(folder):
    (folder / "relayproxy.yaml").write_text(CONFIG % 53)
    lines = [line.split() for line in run("list").output.splitlines()]
    assert [line[:4] for line in lines] == [
        ["example.com", "one", "rsa", "2048"],
        ["example.org", "a", "rsa", "2048"],
        ["example.org", "b", "ed25519", "256"],
    ]
    records = run("list", "--records", "--folder", str(folder / "mykeys")).output.splitlines()
    assert dict(map(strings, records)) == {
        "a._domainkey.example.org": RSA.record(),
        "b._domainkey.example.org": ED25519.record(),
    }


def test_list_says_what_is_wrong(folder):
    (folder / "mykeys/example.org/a.key").chmod(0o640)
    (folder / "mykeys/example.org/b.key").write_bytes(b"")
    short = folder / "mykeys/example.net/c.key"
    short.parent.mkdir()
    short.write_bytes(new_rsa_key(1024).pem())
    short.chmod(0o600)
    rows = json.loads(run("list", "--folder", str(folder / "mykeys"), "-o", "json", code=1).output)
    assert {row["selector"]: (row["fault"].rpartition(": ")[2], row["notes"]) for row in rows} == {
        "a": ("", ["others than its owner may read it: mode 0640"]),
        "b": ("an Ed25519 seed has 32 octets, this has 0", []),
        "c": ("", ["short: 2048 bits are usual"]),
    }
    text = run("list", "--folder", str(folder / "mykeys"), code=1).output
    assert "unusable" in text
    assert "(others than its owner may read it: mode 0640)" in text


def test_without_keys_it_says_where_to_name_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "--folder" in run("list", code=1).output
    assert "there is no folder" in run("list", "--folder", "x", code=1).output
    (tmp_path / "relayproxy.yaml").write_text(CONFIG % 53)
    assert "there is no folder" in run("list", code=1).output


def published(record):
    return {("a._domainkey.example.org", "TXT"): record}


@pytest.mark.parametrize(
    ("zone", "state", "reason"),
    [
        (published(RSA.record()), "ok", ""),
        (published(RSA.record().replace("v=DKIM1; k=rsa; ", "")), "ok", ""),
        (published(RSA.record() + "; t=y"), "ok", "but t=y"),
        ({}, "missing", ""),
        (published("v=DKIM1; p="), "revoked", "p= is empty"),
        (published(OTHER.record()), "differs", "another key"),
        (published(ED25519.record()), "differs", "another key"),
        (published("v=spf1 -all"), "unusable", "v= is not DKIM1"),
        (published(RSA.record() + "; s=tlsrpt"), "unusable", "keeps it from mail"),
        (published(RSA.record() + "; h=sha1"), "unusable", "keeps it from mail"),
        (published([RSA.record(), OTHER.record()]), "unusable", "2 records"),
        (published(DnsStatus.SERVFAIL), "unknown", "servfail"),
        (published(DnsStatus.TIMEOUT), "unknown", "timeout"),
    ],
)
async def test_what_is_published_is_compared(folder, zone, state, reason):
    found = await compared(find_keys(folder / "mykeys")[:1], FakeResolver(zone))
    assert [(one.name, one.state) for one in found] == [("a._domainkey.example.org", state)]
    assert reason in found[0].reason


async def test_a_key_that_can_not_be_read_is_not_asked_for(folder):
    (folder / "mykeys/example.org/a.key").write_bytes(b"")
    resolver = FakeResolver({("b._domainkey.example.org", "TXT"): ED25519.record()})
    found = await compared(find_keys(folder / "mykeys"), resolver)
    assert [one.state for one in found] == ["unreadable", "ok"]
    assert resolver.asked == [("b._domainkey.example.org", "TXT")]


@pytest.fixture
def name_server():
    """Publishes the RSA key as `a` and `one`, and nothing else; yields its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def serve():
            while True:
                data, address = server.recvfrom(4096)
                if data == b"end":
                    return
                reply = dns.message.make_response(dns.message.from_wire(data))
                name = reply.question[0].name
                if name.labels[0] in (b"a", b"one"):
                    text = strings(Record("x", RSA.record()).line())[1]
                    quoted = " ".join(f'"{text[at : at + 255]}"' for at in range(0, len(text), 255))
                    reply.answer.append(dns.rrset.from_text(name, 60, "IN", "TXT", quoted))
                server.sendto(reply.to_wire(), address)

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        yield port
        server.sendto(b"end", ("127.0.0.1", port))
        thread.join()


def test_check_asks_the_servers_of_the_configuration(folder, name_server):
    (folder / "relayproxy.yaml").write_text(CONFIG % name_server)
    done = run("check", code=1)
    assert [line.split() for line in done.output.splitlines()[:3]] == [
        ["ok", "one._domainkey.example.com"],
        ["ok", "a._domainkey.example.org"],
        ["missing", "b._domainkey.example.org"],
    ]
    assert Record("b._domainkey.example.org", ED25519.record()).line() in done.output
    assert run("check", "Example.COM").output.split() == ["ok", "one._domainkey.example.com"]
    assert "no key of example.net" in run("check", "example.net", code=1).output


def test_check_asks_the_server_that_is_named(folder, name_server):
    (folder / "mykeys/example.org/b.key").unlink()
    server = f"127.0.0.1:{name_server}"
    done = run("check", "--folder", str(folder / "mykeys"), "--server", server, "-o", "json")
    assert json.loads(done.output) == [{"name": "a._domainkey.example.org", "state": "ok", "reason": ""}]
    assert "--server" in run("check", "--server", "127.0.0.1:x", code=2).output
