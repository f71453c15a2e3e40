import json
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta

import pytest
from click.testing import CliRunner
from tests.cli.name_server import NameServer

from relayproxy.api import App, DnsStatus
from relayproxy.builtin._dkim_files import find_keys
from relayproxy.builtin.dkim_sign import DkimSign, DkimSignSettings
from relayproxy.cli.dkim import dkim
from relayproxy.cli.dkim_rotation import activate, begin, clear, keys_in, retired_on
from relayproxy.cli.dns_authorities import authorities
from relayproxy.mailauth.audit.report import Record
from relayproxy.mailauth.dkim_keys import KeyFault, new_ed25519_key, new_rsa_key, read_key
from relayproxy.resolver import CachingResolver
from relayproxy.testing import FakeClock, FakeResolver
from relayproxy.testing.mail import call, make_mail

RSA, OTHER, ED25519 = new_rsa_key(), new_rsa_key(), new_ed25519_key()
TODAY, KEEP = date(2026, 11, 24), timedelta(days=14)
RAW = b"From: joe@example.org\r\n\r\nHi.\r\n"


def write(path, key=RSA):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(key.pem())
    path.chmod(0o600)
    return path


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "example.org/old-rsa.key")
    write(tmp_path / "example.org/old-ed25519.pem", ED25519)
    return tmp_path


def names(folder):
    return sorted(path.name for path in (folder / "example.org").iterdir())


def ours(folder):
    return keys_in(folder)["example.org"]


def publish(resolver, steps):
    for step in steps:
        resolver.set(step.record.name, "TXT", step.record.value)


@asynccontextmanager
async def asked(server):
    resolver = CachingResolver((("127.0.0.1", server.port),))
    yield resolver
    await resolver.close()


def states(steps):
    return [(step.state, step.name.partition(".")[0]) for step in steps]


# -- the steps --------------------------------------------------------------------------------------------------


def test_new_keys_wait_beside_the_old_ones(folder):
    steps = begin(ours(folder), TODAY)
    assert states(steps) == [("made", "202611-rsa"), ("made", "202611-ed25519")]
    assert names(folder) == ["202611-ed25519.next", "202611-rsa.next", "old-ed25519.pem", "old-rsa.key"]
    for step in steps:
        assert step.file.stat().st_mode & 0o777 == 0o600
        assert step.record == Record(step.name, read_key(step.file.read_bytes()).record())
    assert [file.selector for file in find_keys(folder)] == ["old-ed25519", "old-rsa"]


async def test_nothing_changes_until_all_records_are_published(folder):
    steps = begin(ours(folder), TODAY)
    before = names(folder)
    resolver = FakeResolver()
    for answer in ([], DnsStatus.SERVFAIL, DnsStatus.TIMEOUT, OTHER.record(), "v=DKIM1; p="):
        publish(resolver, steps[1:])
        resolver.set(steps[0].name, "TXT", answer)
        found = await activate(ours(folder), resolver, TODAY, KEEP)
        assert states(found) == [("ready", "202611-ed25519"), ("waits", "202611-rsa")]
        assert found[1].record == steps[0].record
        assert found[1].open
        assert names(folder) == before


async def test_the_new_keys_sign_when_dns_has_them(folder):
    resolver = FakeResolver()
    publish(resolver, begin(ours(folder), TODAY))
    found = await activate(ours(folder), resolver, TODAY, KEEP)
    assert states(found) == [
        ("signs", "202611-ed25519"),
        ("signs", "202611-rsa"),
        ("retired", "old-ed25519"),
        ("retired", "old-rsa"),
    ]
    assert found[2].text == "leave its record until 2026-12-08"
    assert not any(step.open for step in found)
    assert names(folder) == [
        "202611-ed25519.key",
        "202611-rsa.key",
        "old-ed25519.retired-20261124",
        "old-rsa.retired-20261124",
    ]


async def test_an_interrupted_rotation_goes_on_where_it_was(folder):
    resolver = FakeResolver()
    publish(resolver, begin(ours(folder), TODAY))
    (folder / "example.org/202611-rsa.next").rename(folder / "example.org/202611-rsa.key")
    found = await activate(ours(folder), resolver, TODAY, KEEP)
    assert states(found) == [("signs", "202611-ed25519"), ("retired", "old-ed25519"), ("retired", "old-rsa")]
    assert names(folder)[:2] == ["202611-ed25519.key", "202611-rsa.key"]


async def test_at_every_moment_a_published_key_signs(folder, monkeypatch):
    """After each change of the folder, dkim_sign looks at it and signs with keys that DNS has."""
    resolver = FakeResolver()
    resolver.set("old-rsa._domainkey.example.org", "TXT", RSA.record())
    resolver.set("old-ed25519._domainkey.example.org", "TXT", ED25519.record())
    plugin = DkimSign(DkimSignSettings(keys="."))
    await call(plugin, "startup", app=App("mx.example.com", resolver, FakeClock(), folder))
    moments = []

    async def signs():
        await plugin.ring.poll()
        edits = await call(plugin, "before_forward", mail=make_mail(RAW), route="out")
        held = plugin.ring.signers("example.org")
        for one in held:
            answer = await resolver.query(one.file.name, "TXT")
            assert answer.records == (one.key.record().encode(),)
        assert len(edits) == len(held) >= 1
        assert "rsa" in {one.key.public.kind for one in held}
        moments.append(sorted(one.file.selector for one in held))

    changes = []
    monkeypatch.setattr("relayproxy.cli.dkim_rotation.sync_folder", lambda _: changes.append(names(folder)))
    steps = begin(ours(folder), TODAY)
    await signs()
    publish(resolver, steps)
    await signs()
    keys = {path.name.partition(".")[0]: path.read_bytes() for path in (folder / "example.org").iterdir()}
    await activate(ours(folder), resolver, TODAY, KEEP)
    final = names(folder)
    assert len(changes) == 4
    for moment in changes:
        for path in (folder / "example.org").iterdir():
            path.unlink()
        for name in moment:
            (folder / "example.org" / name).write_bytes(keys[name.partition(".")[0]])
        await signs()
    assert names(folder) == final
    assert moments[:2] == [["old-ed25519", "old-rsa"]] * 2
    assert moments[-1] == ["202611-ed25519", "202611-rsa"]
    await call(plugin, "shutdown")


async def test_a_retired_key_goes_when_its_record_has_gone(tmp_path):
    path = write(tmp_path / "example.org/old.retired-20261110")
    write(tmp_path / "example.org/new.key", OTHER)
    name = "old._domainkey.example.org"
    resolver = FakeResolver({(name, "TXT"): RSA.record()})

    async def cleared(day):
        return [(step.state, step.text) for step in await clear(ours(tmp_path), resolver, day, KEEP)]

    assert await cleared(date(2026, 11, 23)) == [("leave", "leave its record until 2026-11-24")]
    assert await cleared(TODAY) == [("remove", "remove its record, or publish that it is revoked")]
    resolver.set(name, "TXT", DnsStatus.SERVFAIL)
    assert await cleared(TODAY) == [("leave", "DNS gave no answer (servfail)")]
    assert path.exists()
    resolver.set(name, "TXT", "v=DKIM1; p=")
    assert await cleared(TODAY) == [("deleted", "its record is gone")]
    assert names(tmp_path) == ["new.key"]


async def test_a_retired_key_without_a_day_stays(tmp_path):
    write(tmp_path / "example.org/old.retired-x")
    (step,) = await clear(ours(tmp_path), FakeResolver(), TODAY, KEEP)
    assert (step.state, step.text) == ("leave", "its name holds no day")
    assert retired_on(step.file) is None


def test_the_new_keys_are_of_the_same_kinds(tmp_path):
    write(tmp_path / "example.org.s1.pem")
    steps = begin(ours(tmp_path), TODAY, bits=3072)
    assert states(steps) == [("made", "202611-rsa")]
    assert read_key(steps[0].file.read_bytes()).bits == 3072


def test_a_selector_is_not_used_twice(folder):
    for stem in ("202611", "20261124", "20261124-2"):
        steps = begin(ours(folder), TODAY)
        assert {step.name.partition(".")[0] for step in steps} == {f"{stem}-rsa", f"{stem}-ed25519"}
    with pytest.raises(FileExistsError):
        begin(ours(folder), TODAY, "202611")
    with pytest.raises(KeyFault, match="keygen"):
        begin(keys_in(folder)["example.org"].__class__(folder, "example.net", (), (), ()), TODAY)


async def test_a_name_server_that_lags_behind_is_waited_for(folder):
    steps = begin(ours(folder), TODAY)
    with NameServer() as first, NameServer() as second:
        first.set("example.org", "NS", "ns.example.org.")
        first.set("ns.example.org", "A", "127.0.0.1")
        for step in steps:
            first.set(step.name, "TXT", step.record.value)
        async with asked(first) as resolver:
            async with authorities(resolver, second.port) as direct:
                found = await activate(ours(folder), resolver, TODAY, KEEP, direct.of)
                assert {step.text for step in found} == {"missing at the name server 127.0.0.1"}
                assert names(folder)[0].endswith(".next")
            for step in steps:
                second.set(step.name, "TXT", step.record.value)
            async with authorities(resolver, second.port) as direct:
                found = await activate(ours(folder), resolver, TODAY, KEEP, direct.of)
            assert states(found)[0] == ("signs", "202611-ed25519")


async def test_name_servers_that_can_not_be_asked_are_passed_over(folder):
    steps = begin(ours(folder), TODAY)
    with NameServer() as server:
        server.set("example.org", "NS", "ns.example.org.")
        for step in steps:
            server.set(step.name, "TXT", step.record.value)
        async with asked(server) as resolver, authorities(resolver) as direct:
            assert await direct.of("x._domainkey.example.org") == []
            server.set("ns2.example.org", "A", "127.0.0.1")
            server.set("example.net", "NS", "ns2.example.org.")
            ((address, _),) = await direct.of("a.b.example.net")
            assert address == "127.0.0.1"
            found = await activate(ours(folder), resolver, TODAY, KEEP, direct.of)
            assert states(found)[0] == ("signs", "202611-ed25519")


# -- the command ------------------------------------------------------------------------------------------------


def run(*arguments, code=0):
    done = CliRunner().invoke(dkim, ["rotate", *arguments])
    assert done.exit_code == code, done.output
    return done.output


def test_the_whole_way(folder):
    at = ("--folder", str(folder))
    month = f"{datetime.now(UTC):%Y%m}"
    with NameServer() as server:
        asked = (*at, "--server", server.place)
        assert run("--activate", *asked) == ""
        begun = run("Example.org", *at, code=1)
        assert begun.splitlines()[0] == (
            f"made       {month}-rsa._domainkey.example.org  "
            "publish its record, then run `relayproxy dkim rotate` again"
        )
        waits = run("example.org", *asked, code=1)
        assert waits.splitlines()[:2] == [
            f"waits      {month}-ed25519._domainkey.example.org  missing",
            f"waits      {month}-rsa._domainkey.example.org  missing",
        ]
        rows = json.loads(run("example.org", *asked, "-o", "json", code=1))
        for row in rows:
            assert Record(row["name"], row["publish"]).line() in begun
            server.set(row["name"], "TXT", row["publish"])
        assert [line.split()[0] for line in run("--activate", *asked).splitlines()] == [
            "signs",
            "signs",
            "retired",
            "retired",
        ]
        assert [line.split()[0] for line in run("example.org", *asked).splitlines()] == ["leave", "leave"]
    listed = json.loads(CliRunner().invoke(dkim, ["list", *at, "-o", "json"]).output)
    assert {row["selector"]: row["state"] for row in listed} == {
        f"{month}-rsa": "signs",
        f"{month}-ed25519": "signs",
        "old-rsa": "retired",
        "old-ed25519": "retired",
    }


def test_the_first_keys_of_a_domain_may_wait_too(tmp_path):
    made = CliRunner().invoke(
        dkim,
        ["keygen", "example.org", "--folder", str(tmp_path), "--selector", "x", "--type", "rsa", "--wait"],
    )
    assert made.exit_code == 0
    assert names(tmp_path) == ["x.next"]
    with NameServer() as server:
        at = ("example.org", "--folder", str(tmp_path), "--server", server.place)
        assert "waits" in run(*at, code=1)
        record = read_key((tmp_path / "example.org/x.next").read_bytes()).record()
        server.set("x._domainkey.example.org", "TXT", record)
        assert "signs" in run(*at)
    assert names(tmp_path) == ["x.key"]


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ((), 2, "--activate"),
        (("example.net", "--folder", "."), 1, "no key of example.net"),
        (("example.org", "--folder", "nowhere"), 1, "no folder"),
        (("example.org", "--folder", ".", "--selector", "../x"), 1, "no host name"),
    ],
)
def test_what_can_not_be_rotated(folder, monkeypatch, arguments, code, reason):
    monkeypatch.chdir(folder)
    assert reason in run(*arguments, code=code)
    assert names(folder) == ["old-ed25519.pem", "old-rsa.key"]
