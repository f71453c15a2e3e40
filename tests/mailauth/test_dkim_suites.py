"""DKIM verification against the sets of chasquid, dkimpy and mail-auth, every case of each."""

import json
import os
import re
from pathlib import Path

import pytest

from relayproxy.api import Answer, DnsStatus
from relayproxy.mailauth.canonical import body_digests
from relayproxy.mailauth.dkim_header import read_record
from relayproxy.mailauth.dkim_keys import KeyFault, read_key
from relayproxy.mailauth.dkim_verify import body_forms, find_signatures, questions, verify
from relayproxy.model.message import Message

SUITES = Path(os.environ.get("RELAYPROXY_SUITES", Path(__file__).parents[3] / "shared" / "suites"))
CHASQUID = SUITES / "chasquid-dkim" / "internal" / "dkim" / "testdata"
DKIMPY = SUITES / "dkimpy-data"
MAIL_AUTH = SUITES / "mail-auth" / "resources" / "dkim"


def crlf(data):
    return data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def results(raw, zone, now=1_720_000_000):
    """Verify as a plugin does; `zone` maps key names to lists of records, or to a status."""
    message = Message.from_bytes(raw)
    found = find_signatures(message)
    answers = {}
    for question in questions(found):
        records = zone.get(question[0], DnsStatus.NXDOMAIN)
        ok = not isinstance(records, DnsStatus)
        answers[question] = Answer(DnsStatus.OK, tuple(records)) if ok else Answer(records)
    return verify(message, found, answers, body_digests(message, body_forms(found)), now=now)


def words(found):
    return [result.result for result in found]


# -- chasquid: NAME.dns, NAME.msg, NAME.result; a file may hold the name of another ----------------------------

WORDS = {"SUCCESS": "pass", "TEMPFAIL": "temperror", "PERMFAIL": "permerror"}
# Where ours is another word, by case and signature.
DIFFERENT = {
    ("09-limited_body", 0): "policy",  # it leaves most of the body unsigned, which chasquid lets pass
}


def chasquid_file(name, ending):
    path = CHASQUID / f"{name}.{ending}"
    if not path.exists():
        return None
    data = path.read_bytes()
    other = CHASQUID / data.decode("latin-1").strip()
    return other.read_bytes() if len(data) < 100 and b"\n" not in data.strip() and other.is_file() else data


def chasquid_zone(text):
    zone = {}
    for line in re.sub(r"\\\n", "", text).splitlines():
        name, _, record = (part.strip() for part in line.partition(":"))
        if record == "TEMPERROR":
            zone[name] = DnsStatus.SERVFAIL
        elif record and record != "PERMERROR":
            zone.setdefault(name, []).append(re.sub(r"\s+", " ", record).encode())
    return zone


def chasquid_cases():
    if not CHASQUID.exists():
        return [pytest.param("", marks=pytest.mark.skip(f"there is no {CHASQUID}"))]
    return sorted(path.stem for path in CHASQUID.glob("*.msg"))


@pytest.mark.parametrize("name", chasquid_cases())
def test_chasquid(name):
    raw = crlf(chasquid_file(name, "msg"))
    found = results(raw, chasquid_zone((chasquid_file(name, "dns") or b"").decode()))
    expected = json.loads(chasquid_file(name, "result") or '{"Results": []}')["Results"]
    assert len(found) == len(expected)
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours.result == DIFFERENT.get((name, number), WORDS[theirs["State"]]), ours.reason
        if theirs["Domain"]:
            assert (ours.claim.domain, ours.claim.selector) == (theirs["Domain"], theirs["Selector"])
            assert theirs["B"].startswith(ours.claim.b)
            assert len(ours.claim.b) == 8


def test_chasquid_has_eleven_cases():
    if not CHASQUID.exists():
        pytest.skip(f"there is no {CHASQUID}")
    assert len(chasquid_cases()) == 11


def test_chasquid_limited_body_with_more_appended():
    if not CHASQUID.exists():
        pytest.skip(f"there is no {CHASQUID}")
    zone = chasquid_zone(chasquid_file("09-limited_body", "dns").decode())
    raw = crlf(chasquid_file("09-limited_body", "msg"))
    assert words(results(raw, zone)) == ["policy", "pass", "pass"]
    assert words(results(raw + b"Buy now\r\n", zone)) == ["policy", "fail", "fail"]


# -- mail-auth: records, an empty line, the message -------------------------------------------------------------


def mail_auth_cases():
    if not MAIL_AUTH.exists():
        return [pytest.param(None, marks=pytest.mark.skip(f"there is no {MAIL_AUTH}"))]
    return sorted(MAIL_AUTH.glob("*.txt"))


def mail_auth_case(path):
    records, _, raw = crlf(path.read_bytes()).partition(b"\r\n\r\n")
    pairs = (line.partition(b" ") for line in records.splitlines())
    return {name.decode(): [record] for name, _, record in pairs}, raw


@pytest.mark.parametrize("path", mail_auth_cases())
def test_mail_auth(path):
    zone, raw = mail_auth_case(path)
    found = results(raw, zone, now=1_667_900_000)  # all were signed, and 005 has not expired
    assert found
    assert {result.result for result in found} == {"pass"}, found


def test_mail_auth_expiry_counts_after_five_minutes():
    if not MAIL_AUTH.exists():
        pytest.skip(f"there is no {MAIL_AUTH}")
    zone, raw = mail_auth_case(MAIL_AUTH / "005.txt")
    assert words(results(raw, zone, now=1_667_930_064 + 300)) == ["pass"]
    late = results(raw, zone, now=1_667_930_064 + 301)
    assert [(result.result, result.reason) for result in late] == [("policy", "it has expired")]
    assert words(results(raw, zone, now=1_667_843_664 - 300)) == ["pass"]
    early = results(raw, zone, now=1_667_843_664 - 301)
    assert [(result.result, result.reason) for result in early] == [("policy", "it was made in the future")]


# -- dkimpy -----------------------------------------------------------------------------------------------------

needs_dkimpy = pytest.mark.skipif(not DKIMPY.exists(), reason=f"there is no {DKIMPY}")
ED25519_RFC8463 = b"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="


def data(name):
    return (DKIMPY / name).read_bytes()


@needs_dkimpy
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rfc6376.signed.msg", ["pass", "pass"]),
        ("rfc6376.signed.rsa.msg", ["pass"]),
        ("rfc6376.signed.no_t.msg", ["fail"]),  # its tags were changed after it was signed
        ("rfc6376.msg", []),
        ("test.message", []),
    ],
)
def test_dkimpy_messages(name, expected):
    zone = {
        "test._domainkey.football.example.com": [data("test.txt")],
        "brisbane._domainkey.football.example.com": [ED25519_RFC8463],
    }
    assert words(results(crlf(data(name)), zone)) == expected


@needs_dkimpy
@pytest.mark.parametrize(
    ("record", "expected", "reason"),
    [
        ("test.txt", "pass", ""),
        ("test2.txt", "pass", ""),  # no k=
        ("badversion.txt", "permerror", "its v= is not DKIM1"),
        ("badk.txt", "permerror", "its k= is no kind of key that is known here"),
        ("test_bad.txt", "permerror", "p= "),
        ("test_tlsrpt.txt", "permerror", "the key is not for mail"),
        ("1024_testkey_wo_markers.pub.txt", "fail", "the key is another"),
        ("1024_testkey_wo_markers.pub.rsa.txt", "fail", "the key is another"),
        ("2048_testkey_wo_markers.pub.txt", "fail", "the key is another"),
        ("2048_testkey_wo_markers.pub.rsa.txt", "fail", "the key is another"),
        ("2048_testkey_PKCS8.key.pub.txt", "fail", "the key is another"),
        ("ed25519test.dns", "permerror", "the key is for ed25519"),
        ("eximtest.dns", "permerror", "the key is for ed25519"),
    ],
)
def test_dkimpy_records(record, expected, reason):
    zone = {"test._domainkey.football.example.com": [data(record)]}
    found = results(crlf(data("rfc6376.signed.rsa.msg")), zone)
    assert words(found) == [expected]
    assert reason in found[0].reason


@needs_dkimpy
def test_dkimpy_a_real_message_with_degenerate_folding():
    key = {"20120113._domainkey.gmail.com": [data("test2.txt")]}
    assert words(results(crlf(data("test2.message")), key)) == ["fail"]  # the key is not the one of 2013


@needs_dkimpy
def test_dkimpy_a_signature_by_exim_with_ed25519():
    zone = {"sed._domainkey.test.ex": [data("eximtest.dns")]}
    assert words(results(crlf(data("ed25519test2.msg")), zone)) == ["pass"]


@needs_dkimpy
def test_dkimpy_a_domain_with_a_parenthesis():
    found = results(crlf(data("test.message.baddomain")), {})
    assert words(found) == ["permerror"]
    assert found[0].claim.domain == ""


@needs_dkimpy
def test_one_bad_field_spoils_nothing():
    raw = crlf(data("rfc6376.signed.rsa.msg")).replace(b"To: ", b"\xf0\x9f garbage\r\nTo: ", 1)
    assert words(results(raw, {"test._domainkey.football.example.com": [data("test.txt")]})) == ["pass"]


@needs_dkimpy
@pytest.mark.parametrize(
    ("name", "algorithm", "bits", "published"),
    [
        ("test.private", "rsa-sha256", 1024, "test.txt"),
        ("test2.private", "rsa-sha256", 1024, None),
        ("1024_testkey.key", "rsa-sha256", 1024, "1024_testkey_wo_markers.pub.txt"),
        ("2048_testkey.key", "rsa-sha256", 2048, "2048_testkey_wo_markers.pub.rsa.txt"),
        ("2048_testkey_PKCS8.key", "rsa-sha256", 2048, "2048_testkey_PKCS8.key.pub.txt"),
        ("ed25519test.key", "ed25519-sha256", 256, "ed25519test.dns"),
        ("rfc8032_7_1.key", "ed25519-sha256", 256, None),
    ],
)
def test_dkimpy_private_keys(name, algorithm, bits, published):
    key = read_key(data(name))
    assert (key.algorithm, key.bits) == (algorithm, bits)
    if published:
        assert read_record(data(published)).key.octets == key.public.octets


@needs_dkimpy
def test_dkimpy_every_file_is_used_or_is_an_unsigned_message():
    used = Path(__file__).read_text()
    left = {path.name for path in DKIMPY.iterdir() if path.name not in used}
    assert left <= {"LICENSE", "PROVENANCE.txt"}


@needs_dkimpy
@pytest.mark.parametrize(
    "name",
    ["ed25519test.msg", "rfc6376.w1258.msg", "test_extra.message", "test_nofrom.message"],
)
def test_dkimpy_unsigned_messages(name):
    assert results(crlf(data(name)), {}) == ()


@needs_dkimpy
def test_dkimpy_a_real_message_with_another_key():
    found = results(crlf(data("message.mbox")), {"2007-00._domainkey.kitterman.com": [data("test.txt")]})
    assert [(result.result, result.claim.domain) for result in found] == [("fail", "kitterman.com")]


@needs_dkimpy
def test_dkimpy_something_else_is_no_key():
    for name in ("test.message", "test.txt", "LICENSE"):
        with pytest.raises(KeyFault):
            read_key(data(name))
