import pytest

from relayproxy.api import DnsStatus, fetch_from
from relayproxy.mailauth.audit.dkim import audit_keys, audit_selectors
from relayproxy.mailauth.dkim_keys import new_ed25519_key, new_rsa_key
from relayproxy.testing import FakeResolver

RSA, OTHER, SHORT, ED25519 = new_rsa_key(), new_rsa_key(), new_rsa_key(1024), new_ed25519_key()
NAME = "s._domainkey.example.org"
# An RSA key of 512 bits, which nobody can make any more with the library.
TINY = "v=DKIM1; p=MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKJ2lzDLZ8XlVambQfMXn3LRGKOD5o6lMIgulclWjZwP56LRqdg5ZX15bhc/GsvW8xW/R5Sh1NnkJNyL/cqY1a8CAwEAAQ=="


@pytest.mark.parametrize(
    ("key", "answer", "level", "text"),
    [
        (RSA, RSA.record(), "ok", "rsa, 2048 bits, and it is the key that signs"),
        (ED25519, ED25519.record(), "ok", "ed25519, 256 bits"),
        (SHORT, SHORT.record(), "warning", "rsa, 1024 bits are short"),
        (RSA, RSA.record() + "; t=y", "warning", "t=y says that it is a test"),
        (RSA, [], "error", "there is no record for this key"),
        (RSA, OTHER.record(), "error", "another key is published"),
        (RSA, "v=DKIM1; p=", "error", "revoked"),
        (RSA, "v=spf1 -all", "error", "v= is not DKIM1"),
        (RSA, [RSA.record(), OTHER.record()], "error", "2 records"),
        (RSA, RSA.record() + "; h=sha1", "error", "keeps it from mail"),
        (RSA, DnsStatus.SERVFAIL, "error", "DNS gave no answer (servfail)"),
    ],
)
async def test_published_beside_private(key, answer, level, text):
    (line,) = await audit_keys([(NAME, key)], fetch_from(FakeResolver({(NAME, "TXT"): answer})))
    assert (line.check, line.name, line.level) == ("dkim", NAME, level)
    assert text in line.text
    wrong = level == "error" and answer is not DnsStatus.SERVFAIL
    assert [record.value for record in line.publish] == [key.record()] * (wrong or "t=y" in text)


@pytest.mark.parametrize(
    ("answer", "level", "text"),
    [
        (RSA.record(), "ok", "rsa, 2048 bits"),
        (ED25519.record(), "ok", "ed25519"),
        (SHORT.record(), "warning", "are short"),
        (TINY, "error", "no RSA key below 1024"),
        (RSA.record() + "; t=s:y", "warning", "t=y"),
        ("v=DKIM1; p=", "warning", "revoked"),
        ("v=DKIM1; k=rsa; p=AAAA", "error", "holds no rsa key"),
        (RSA.record() + "; s=tlsrpt", "error", "keeps it from mail"),
        ([], "error", "there is no record"),
        (DnsStatus.TIMEOUT, "error", "timeout"),
    ],
)
async def test_a_key_of_others(answer, level, text):
    resolver = FakeResolver({(NAME, "TXT"): answer})
    (line,) = await audit_selectors("example.org", ["s"], fetch_from(resolver))
    assert (line.name, line.level) == (NAME, level)
    assert text in line.text


async def test_without_keys_nothing_is_asked():
    resolver = FakeResolver({})
    assert await audit_keys([], fetch_from(resolver)) == []
    assert await audit_selectors("example.org", [], fetch_from(resolver)) == []
    assert resolver.asked == []
