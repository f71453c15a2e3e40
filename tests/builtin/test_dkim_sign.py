import asyncio
import os
import threading
from dataclasses import replace

import dkim
import pytest
from pydantic import ValidationError

from relayproxy.api import Action, App, Direction, Message
from relayproxy.builtin._dkim_files import find_keys
from relayproxy.builtin._dkim_ring import KeyRing
from relayproxy.builtin.dkim_sign import DkimSign, DkimSignSettings
from relayproxy.mailauth import canonical
from relayproxy.mailauth.dkim_keys import KeyFault, new_ed25519_key, new_rsa_key
from relayproxy.model.edits import apply_to_message
from relayproxy.testing import FakeClock, FakeResolver
from relayproxy.testing.mail import call, make_mail

RSA, OTHER, ED25519 = new_rsa_key(), new_rsa_key(), new_ed25519_key()
NOW = 1_700_000_000


def write(path, key=RSA):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(key.pem())
    path.chmod(0o600)
    return path


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "keys/example.org/s1.key")
    write(tmp_path / "keys/example.org/s2.pem", ED25519)
    write(tmp_path / "keys/bench.example.bench.pem")
    return tmp_path


async def plugin(folder, alarms=None, **settings):
    made = DkimSign(DkimSignSettings(**({"keys": "keys"} | settings)))
    app = App("mx.example.com", FakeResolver(), FakeClock(NOW), folder)
    if alarms is not None:
        app = replace(app, alarm=lambda name, count: alarms.append((name, count)))
    await call(made, "startup", app=app)
    return made


def mail_from(author="Joe <joe@example.org>", more="", **facts):
    raw = f"From: {author}\r\n{more}To: suzie@example.net\r\nSubject: Dinner\r\n\r\nHi.\r\n"
    return make_mail(raw.encode(), direction=Direction.OUTBOUND, **facts)


async def signed(made, mail):
    """Ask both hooks as the pipeline does; return the message as it would be sent."""
    assert await call(made, "message", mail=mail) is None
    return apply_to_message(mail.message, await call(made, "before_forward", mail=mail, route="mailstore"))


async def tags(made, mail):
    """Return d= and s= of each signature, from the top."""
    fields = (await signed(made, mail)).all("DKIM-Signature")
    all_tags = [dict(tag.strip().split("=", 1) for tag in field.value.split(";")) for field in fields]
    return [(found["d"], found["s"]) for found in all_tags]


def verifies(message, key=RSA, index=0):
    return dkim.DKIM(bytes(message)).verify(index, dnsfunc=lambda name, timeout=5: key.record().encode())


# -- finding keys -----------------------------------------------------------------------------------------------


async def test_every_key_of_the_domain_signs(folder):
    message = await signed(await plugin(folder), mail_from())
    first, second = (field.value for field in message.all("DKIM-Signature"))
    assert "a=ed25519-sha256" in first
    assert "a=rsa-sha256" in second
    assert verifies(message, index=1)


async def test_a_key_may_be_named_by_its_file_alone(folder):
    message = await signed(await plugin(folder), mail_from("joe@bench.example"))
    assert "d=bench.example;\r\n\ts=bench;" in message.head.decode()
    assert verifies(message)


async def test_a_bare_base64_seed_will_do(folder):
    (folder / "keys/seed.example.x.key").write_text("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=\n")
    assert await tags(await plugin(folder), mail_from("a@seed.example")) == [("seed.example", "x")]


async def test_domains_are_compared_in_a_labels_and_folded(folder):
    write(folder / "keys/exämple.ORG/s1.key")
    assert await tags(await plugin(folder), mail_from("a@EXÄMPLE.org")) == [("xn--exmple-cua.org", "s1")]
    assert await tags(await plugin(folder), mail_from("a@xn--exmple-cua.org")) == [
        ("xn--exmple-cua.org", "s1")
    ]


async def test_another_domain_is_left_unsigned(folder):
    mail = mail_from("joe@example.com")
    assert await signed(await plugin(folder), mail) is mail.message


async def test_a_subdomain_is_signed_by_its_parent(folder):
    assert len(await tags(await plugin(folder), mail_from("a@a.b.example.org"))) == 2
    assert await tags(await plugin(folder, parent_domains=False), mail_from("a@b.example.org")) == []
    write(folder / "keys/b.example.org/own.key")
    assert await tags(await plugin(folder), mail_from("a@b.example.org")) == [("b.example.org", "own")]
    assert await tags(await plugin(folder), mail_from("a@badexample.org")) == []


async def test_keys_may_be_named_one_by_one(folder):
    write(folder / "one.pem")
    one = {"domain": "Example.com", "selector": "s9", "key": "one.pem"}
    made = await plugin(folder, keys=None, sign=[one])
    assert await tags(made, mail_from("a@example.com")) == [("example.com", "s9")]
    assert await tags(made, mail_from()) == []


async def test_senders_choose_a_key(folder):
    path = str(write(folder / "one.pem"))

    def key(selector, *senders):
        return {"domain": "example.org", "selector": selector, "key": path, "senders": senders}

    made = await plugin(
        folder,
        keys=None,
        sign=[
            key("address", "News@Example.org"),
            key("domain", "example.org", "example.com"),
            key("below", ".example.org"),
        ],
    )
    for author, selector in [
        ("news@example.org", "address"),
        ("NEWS@example.org", "address"),
        ("joe@example.org", "domain"),
        ("joe@example.com", "domain"),
        ("joe@a.b.example.org", "below"),
        ("joe@sub.example.com", "domain"),
    ]:
        assert await tags(made, mail_from(author)) == [("example.org", selector)]
    assert await tags(made, mail_from("joe@example.net")) == []


# -- what is in a signature -------------------------------------------------------------------------------------


async def test_time_and_expiry(folder):
    head = (await signed(await plugin(folder, expire="7d"), mail_from())).head
    assert head.count(f"t={NOW}; x={NOW + 604_800};".encode()) == 2
    head = (await signed(await plugin(folder, expire="1h"), mail_from())).head
    assert head.count(f"x={NOW + 3600};".encode()) == 2
    assert b"x=" not in (await signed(await plugin(folder), mail_from())).head


async def test_the_header_fields_may_be_chosen(folder):
    made = await plugin(folder, headers=["Subject"], headers_if_present=["X-Mine"])
    assert b"h=From:From:Subject:Subject;" in (await signed(made, mail_from())).head
    assert b"X-Mine:X-Mine;" in (await signed(made, mail_from(more="X-Mine: 1\r\n"))).head


async def test_what_other_plugins_changed_is_signed_as_it_is(folder):
    made, mail = await plugin(folder), mail_from("joe@bench.example")
    assert await call(made, "message", mail=mail) is None
    mail.message = Message.from_bytes(bytes(mail.message).replace(b"Dinner", b"[list] Dinner"))
    edits = await call(made, "before_forward", mail=mail, route="mailstore")
    assert verifies(apply_to_message(mail.message, edits))


async def test_a_large_body_is_hashed_in_another_thread(folder, monkeypatch):
    threads = []
    once = canonical.canonical_body

    def watched(pieces, *, relaxed):
        threads.append(threading.current_thread())
        return once(pieces, relaxed=relaxed)

    monkeypatch.setattr(canonical, "canonical_body", watched)
    for lines, off_the_loop in ((10, False), (10_000, True)):
        threads.clear()
        mail = mail_from("joe@bench.example")
        mail.message = Message.from_bytes(bytes(mail.message) + b"words and words\r\n" * lines)
        assert verifies(await signed(await plugin(folder), mail))
        assert [thread is not threading.main_thread() for thread in threads] == [off_the_loop]


# -- who may have it signed -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "author",
    [
        "a@example.com, joe@example.org",
        "joe@example.org, a@example.com",
        "joe@example.org\r\nFrom: a@example.com",
        "a@example.com\r\nFrom: joe@example.org",
        "a@example.com\r\nFROM : joe@example.org",
        "joe@example.org\r\nFrom\x80: a@example.com",
        "group: joe@example.org;",
        "<@example.com:joe@example.org>",
        "joe@example.org <a@example.com> x",
        "joe@sub.example.org, x",
        "=?utf-8?q?joe=40example=2Eorg?= x@, y",
        '"joe@example.org" <a@example.com',
        "a@example.com" + ", a@example.com" * 1000,
    ],
)
async def test_a_from_that_names_a_domain_of_ours_among_others_is_refused(folder, author):
    made, mail = await plugin(folder), mail_from(author)
    verdict = await call(made, "message", mail=mail)
    assert verdict.action is Action.REJECT
    assert (verdict.reply.code, verdict.reply.status) == (550, "5.7.1")
    with pytest.raises(Exception, match="From"):
        await call(made, "before_forward", mail=mail, route="mailstore")


@pytest.mark.parametrize("author", ["a@example.com, b@example.net", "", "nobody", "a@[192.0.2.1]"])
async def test_a_from_that_names_none_is_left_unsigned(folder, author):
    mail = mail_from(author)
    assert await signed(await plugin(folder), mail) is mail.message


async def test_a_domain_of_which_only_one_address_is_signed_is_guarded_too(folder):
    one = {
        "domain": "a.example",
        "selector": "s",
        "key": "keys/example.org/s1.key",
        "senders": ["b@c.example"],
    }
    made = await plugin(folder, keys=None, sign=[one])
    verdict = await call(made, "message", mail=mail_from("b@c.example, d@e.example"))
    assert verdict.action is Action.REJECT
    assert await call(made, "message", mail=mail_from("a@a.example, d@e.example")) is None


async def test_mail_without_a_key_may_be_refused(folder):
    made = await plugin(folder, require=True)
    for author in ("joe@example.com", "", "a@example.com, b@example.net"):
        verdict = await call(made, "message", mail=mail_from(author))
        assert (verdict.reply.code, verdict.reply.status) == (550, "5.7.1")
    assert len(await tags(made, mail_from())) == 2


async def test_a_domain_may_be_bound_to_logins_and_networks(folder):
    bind = {
        "Example.org": {"logins": ["joe"], "networks": ["192.0.2.0/28", "2001:db8::/32"]},
        "free.example.org": {"networks": ["0.0.0.0/0"]},
        "nobody.example.org": {},
    }
    made = await plugin(folder, bind=bind)

    async def may(author="a@example.org", **facts):
        verdict = await call(made, "message", mail=mail_from(author, **facts))
        assert verdict is None or (verdict.reply.code, verdict.reply.status) == (550, "5.7.1")
        return verdict is None

    assert await may(identity="joe", ip="198.51.100.1")
    assert await may(ip="192.0.2.15")
    assert await may(ip="2001:db8::1")
    assert not await may(ip="192.0.2.16")
    assert not await may(identity="jane", ip="198.51.100.1")
    assert not await may(identity="jane", ip="")
    assert not await may("a@sub.example.org", identity="jane", ip="198.51.100.1")
    assert await may("a@bench.example", identity="jane", ip="198.51.100.1")
    # both the author's domain and the one that signs have to allow it
    assert not await may("a@free.example.org", identity="jane", ip="198.51.100.1")
    assert await may("a@free.example.org", ip="192.0.2.1")
    assert not await may("a@nobody.example.org", identity="joe")


# -- never unsigned ---------------------------------------------------------------------------------------------


async def test_a_key_that_is_gone_stops_the_mail_until_it_is_back(folder):
    alarms = []
    made, path = await plugin(folder, alarms), folder / "keys/bench.example.bench.pem"
    path.rename(folder / "elsewhere")
    await made.ring.poll()
    with pytest.raises(KeyFault, match=r"bench\.pem: No such file"):
        await signed(made, mail_from("joe@bench.example"))
    assert len(await tags(made, mail_from())) == 2
    (folder / "elsewhere").rename(path)
    await made.ring.poll()
    assert verifies(await signed(made, mail_from("joe@bench.example")))
    assert alarms == [("dkim_sign", 0), ("dkim_sign", 1), ("dkim_sign", 0)]


async def test_one_missing_key_of_two_stops_the_mail(folder):
    made = await plugin(folder)
    (folder / "keys/example.org/s1.key").unlink()
    await made.ring.poll()
    with pytest.raises(KeyFault):
        await signed(made, mail_from())


async def test_a_key_that_can_not_be_read_any_more_stops_the_mail(folder):
    made, path = await plugin(folder), folder / "keys/bench.example.bench.pem"
    path.unlink()
    path.mkdir()
    await made.ring.poll()
    with pytest.raises(KeyFault, match="Is a directory"):
        await signed(made, mail_from("joe@bench.example"))


async def test_a_folder_that_is_gone_stops_the_mail_until_it_is_back(folder, caplog):
    made = await plugin(folder)
    (folder / "keys").rename(folder / "away")
    await made.ring.poll()
    with pytest.raises(KeyFault, match="No such file"):
        await signed(made, mail_from())
    assert "there is no folder" in caplog.text
    (folder / "away").rename(folder / "keys")
    await made.ring.poll()
    assert len(await tags(made, mail_from())) == 2


# -- files that change ------------------------------------------------------------------------------------------


async def test_a_key_that_was_changed_is_read_again(folder):
    made, path = await plugin(folder), folder / "keys/bench.example.bench.pem"
    assert verifies(await signed(made, mail_from("joe@bench.example")), RSA)
    new = write(folder / "new", OTHER)
    os.utime(new, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    new.rename(path)
    await made.ring.poll()
    assert verifies(await signed(made, mail_from("joe@bench.example")), OTHER)


async def test_a_broken_file_leaves_the_key_that_was_there_and_raises_an_alarm(folder, caplog):
    alarms = []
    made, path = await plugin(folder, alarms), folder / "keys/bench.example.bench.pem"
    pem = path.read_bytes()
    for content in (b"", pem[: len(pem) // 2]):
        path.write_bytes(content)
        await made.ring.poll()
        assert verifies(await signed(made, mail_from("joe@bench.example")))
    assert alarms == [("dkim_sign", 0), ("dkim_sign", 1), ("dkim_sign", 1)]
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert [one.rpartition("/")[2].partition(":")[0] for one in errors] == ["bench.example.bench.pem"] * 2
    assert not any("PRIVATE" in one for one in errors)
    path.write_bytes(OTHER.pem())
    await made.ring.poll()
    assert verifies(await signed(made, mail_from("joe@bench.example")), OTHER)
    assert alarms[-1] == ("dkim_sign", 0)


async def test_an_alarm_is_logged_once(folder, caplog):
    made, path = await plugin(folder), folder / "keys/bench.example.bench.pem"
    path.write_bytes(b"")
    for _ in range(3):
        await made.ring.poll()
    assert [record.levelname for record in caplog.records].count("ERROR") == 1


async def test_a_new_file_signs_without_a_restart(folder):
    made = await plugin(folder)
    assert await tags(made, mail_from("a@new.example")) == []
    write(folder / "keys/new.example/x.key")
    await made.ring.poll()
    assert await tags(made, mail_from("a@new.example")) == [("new.example", "x")]


async def test_a_new_file_that_is_no_key_keeps_no_other_from_signing(folder):
    alarms = []
    made = await plugin(folder, alarms)
    (folder / "keys/example.org/s3.key").write_bytes(b"")
    await made.ring.poll()
    assert len(await tags(made, mail_from())) == 2
    assert alarms[-1] == ("dkim_sign", 1)
    write(folder / "keys/example.org/s3.key", OTHER)
    await made.ring.poll()
    assert len(await tags(made, mail_from())) == 3
    assert alarms[-1] == ("dkim_sign", 0)


async def test_a_new_file_that_is_no_key_stops_the_mail_of_a_domain_without_another(folder):
    made = await plugin(folder)
    write(folder / "keys/new.example/x.key").write_bytes(b"")
    await made.ring.poll()
    with pytest.raises(KeyFault, match="seed has 32 octets"):
        await signed(made, mail_from("a@new.example"))


async def test_a_file_with_a_name_that_is_none_changes_nothing(folder):
    alarms = []
    made = await plugin(folder, alarms)
    write(folder / "keys/x.key")
    await made.ring.poll()
    assert len(await tags(made, mail_from())) == 2
    assert alarms[-1] == ("dkim_sign", 1)


async def test_keys_that_wait_or_are_retired_do_not_sign(folder):
    write(folder / "keys/example.org/s3.next")
    write(folder / "keys/example.org/s0.retired-20261231")
    made = await plugin(folder)
    await made.ring.poll()
    assert await tags(made, mail_from()) == [("example.org", "s2"), ("example.org", "s1")]


async def test_a_retired_key_signs_until_another_does(folder):
    alarms = []
    made, home = await plugin(folder, alarms), folder / "keys"
    (home / "bench.example.bench.pem").rename(home / "bench.example.bench.retired-20261231")
    for _ in range(2):
        await made.ring.poll()
        assert verifies(await signed(made, mail_from("joe@bench.example")))
        assert alarms[-1] == ("dkim_sign", 1)
    write(home / "bench.example.new.key", OTHER)
    await made.ring.poll()
    assert await tags(made, mail_from("joe@bench.example")) == [("bench.example", "new")]
    assert alarms[-1] == ("dkim_sign", 0)


async def test_a_key_by_name_is_watched_too(folder):
    path = write(folder / "one.pem")
    made = await plugin(folder, keys=None, sign=[{"domain": "a.example", "selector": "s", "key": "one.pem"}])
    path.write_bytes(b"")
    write(path, OTHER)
    await made.ring.poll()
    assert verifies(await signed(made, mail_from("b@a.example")), OTHER)


async def test_files_are_looked_at_until_the_end(folder, monkeypatch):
    looked = asyncio.Event()
    once = KeyRing.poll

    async def poll(ring):
        ring.pause = 0
        if looked.is_set():
            raise OSError("the disk is on fire")
        await once(ring)
        looked.set()

    monkeypatch.setattr("relayproxy.builtin._dkim_ring.EVERY", 0)
    monkeypatch.setattr(KeyRing, "poll", poll)
    made = await plugin(folder)
    await looked.wait()
    watch = made._watch
    await asyncio.sleep(0)
    assert not watch.done()
    await call(made, "shutdown")
    with pytest.raises(asyncio.CancelledError):
        await watch


async def test_an_author_that_became_ambiguous_on_the_way_stops_the_mail(folder):
    made, mail = await plugin(folder), mail_from()
    assert await call(made, "message", mail=mail) is None
    mail.message = Message.from_bytes(b"From: a@example.com\r\n" + bytes(mail.message))
    with pytest.raises(Exception, match="more than one From"):
        await call(made, "before_forward", mail=mail, route="mailstore")


# -- at the start -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("keys/example.com/x.key", b"", "x.key: "),
        ("keys/example.com/x.pem", b"-----BEGIN RSA PRIVATE KEY-----\n", "not a private key"),
        ("keys/x.key", RSA.pem(), "not DOMAIN/SELECTOR"),
        ("keys/a/b/c.key", RSA.pem(), "too deep"),
        ("keys/exam ple.org/x.key", RSA.pem(), "no host name"),
        ("keys/example.org/-.key", RSA.pem(), "no host name"),
        ("keys/example.org/s1.pem", RSA.pem(), "have the same selector"),
        ("keys/example.org.s1.key", RSA.pem(), "have the same selector"),
    ],
)
async def test_a_bad_key_keeps_it_from_starting(folder, name, content, reason):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    with pytest.raises(KeyFault, match=reason):
        await plugin(folder)


async def test_no_folder_no_key_and_no_file_keep_it_from_starting(folder):
    (folder / "empty").mkdir()
    (folder / "empty/readme.txt").write_text("x")
    for settings, reason in [
        ({"keys": "nowhere"}, "there is no folder"),
        ({"keys": "empty"}, "there is no key in"),
        ({"sign": [{"domain": "a.example", "selector": "s", "key": "gone"}]}, "gone: No such file"),
        ({"sign": [{"domain": "a.example", "selector": "s s", "key": "gone"}]}, "no host name"),
        ({"sign": [{"domain": "a..example", "selector": "s", "key": "gone"}]}, "no host name"),
    ]:
        with pytest.raises(KeyFault, match=reason):
            await plugin(folder, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"keys": ""},
        {"keys": "keys", "expire": "soon"},
        {"keys": "keys", "expire": "0d"},
        {"keys": "keys", "expire": 3600},
        {"keys": "keys", "headers": ["Sub ject"]},
        {"keys": "keys", "headers": ["Received"]},
        {"keys": "keys", "headers_if_present": ["DKIM-Signature"]},
        {"keys": "keys", "bind": {"example.org": {"networks": ["192.0.2.1/24"]}}},
        {"keys": "keys", "bind": {"example.org": {"login": ["joe"]}}},
        {"keys": "keys", "sign": [{"domain": "example.org"}]},
        {"keys": "keys", "unknown": 1},
    ],
)
def test_bad_settings(settings):
    with pytest.raises(ValidationError):
        DkimSignSettings(**settings)


async def test_weak_keys_and_open_files_are_warned_of(folder, caplog):
    write(folder / "keys/short.example.s.key", new_rsa_key(1024))
    (folder / "keys/bench.example.bench.pem").chmod(0o644)
    await plugin(folder)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [one.rpartition("/")[2] for one in said] == [
        "bench.example.bench.pem: everybody on this machine may use this key file",
        "short.example.s.key: RSA with 1024 bits is short, 2048 are usual",
    ]


async def test_a_domain_without_an_rsa_key_is_warned_of(folder, caplog):
    write(folder / "keys/modern.example.s.key", new_ed25519_key())
    await plugin(folder)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["modern.example has no RSA key, and some large receivers verify nothing else"]


def test_keys_are_found_in_order(folder):
    assert [(file.domain, file.selector) for file in find_keys(folder / "keys")] == [
        ("bench.example", "bench"),
        ("example.org", "s1"),
        ("example.org", "s2"),
    ]


def test_hidden_files_and_what_is_no_file_are_left_alone(folder):
    write(folder / "keys/..2026_11_24/example.org.s3.key")
    write(folder / "keys/example.org/.s4.key")
    (folder / "keys/example.org/s5.key").mkdir()
    os.mkfifo(folder / "keys/example.org/s6.key")
    assert len(find_keys(folder / "keys")) == 3


def test_it_is_a_signer_of_outgoing_mail():
    assert DkimSign.signer
    assert DkimSign.directions == frozenset({Direction.OUTBOUND, Direction.INTERNAL})
