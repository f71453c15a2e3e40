import pytest
from pydantic import ValidationError

from relayproxy.api import TlsInfo
from relayproxy.builtin.require_tls import RequireTls, RequireTlsSettings
from relayproxy.testing.mail import call, make_mail

PIN = "ab" * 32
TLS12 = TlsInfo("TLSv1.2", "ECDHE-RSA-AES128-GCM-SHA256", 128)
TLS13 = TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256)
CERTIFIED = TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256, "CN=mx.example.org", PIN, verified=True)


def plugin(*requirements):
    options = {"requirements": list(requirements)} if requirements else {}
    return RequireTls(RequireTlsSettings.model_validate(options))


async def at_mail(requirement, **facts):
    verdict = await call(plugin(requirement), "mail", mail=make_mail(**facts))
    return str(verdict.reply) if verdict else None


async def at_rcpt(requirement, **facts):
    mail = make_mail(**facts)
    verdict = await call(plugin(requirement), "rcpt", mail=mail, rcpt=mail.envelope.recipients[0])
    return str(verdict.reply) if verdict else None


async def test_a_bare_name_asks_for_tls_1_2_from_everyone():
    bare = plugin()
    plain = await call(bare, "mail", mail=make_mail())
    assert str(plain.reply) == (
        "530 5.7.0 Must issue a STARTTLS command first: "
        "this mail is accepted only over an encrypted connection (TLS)"
    )
    assert plain.reason == "requirement 1: no TLS"
    assert await call(bare, "mail", mail=make_mail(tls=TLS12)) is None
    assert await call(bare, "mail", mail=make_mail(tls=TLS13)) is None


@pytest.mark.parametrize(
    ("version", "minimum", "refused"),
    [
        ("TLSv1", "1.2", True),
        ("TLSv1.1", "1.2", True),
        ("SSLv3", "1.2", True),
        ("", "1.2", True),
        ("TLSv1.2", "1.2", False),
        ("TLSv1.2", "1.3", True),
        ("TLSv1.3", "1.3", False),
        ("TLSv1.4", "1.3", False),
        ("TLSv2.0", "1.3", False),
    ],
)
async def test_the_version_is_compared_as_a_number(version, minimum, refused):
    reply = await at_mail({"min_version": minimum}, tls=TlsInfo(version, "", 0))
    assert (reply is not None) is refused


async def test_an_old_version_is_named_in_the_reply():
    assert await at_mail({"min_version": 1.3}, tls=TLS12) == (
        "550 5.7.0 This mail is accepted only over TLS 1.3 or newer, and this connection uses TLSv1.2"
    )


async def test_a_certificate_must_be_vouched_for():
    unverified = TlsInfo("TLSv1.3", "", 256, "CN=mx.example.org", PIN)
    asked = {"client_certificate": True}
    refusal = "550 5.7.0 This mail is accepted only from mail servers that show a valid client certificate"
    assert await at_mail(asked, tls=TLS13) == refusal
    assert await at_mail(asked, tls=unverified) == refusal
    assert await at_mail(asked, tls=CERTIFIED) is None


async def test_a_fingerprint_is_compared_without_case_and_colons():
    written = ":".join(["AB"] * 32)
    other = {"fingerprints": ["cd" * 32]}
    assert await at_mail({"fingerprints": [written]}, tls=CERTIFIED) is None
    refusal = (
        "550 5.7.0 This mail is accepted only from mail servers whose client certificate is registered here"
    )
    assert await at_mail(other, tls=CERTIFIED) == refusal
    assert await at_mail(other, tls=TLS13) == refusal


async def test_a_listed_fingerprint_does_not_spare_the_verification():
    both = {"fingerprints": [PIN], "client_certificate": True}
    unverified = TlsInfo("TLSv1.3", "", 256, "CN=mx.example.org", PIN)
    assert "valid client certificate" in await at_mail(both, tls=unverified)


async def test_a_listener_scope():
    scope = {"listeners": ["submission"]}
    assert await at_mail(scope, listener="submission") is not None
    assert await at_mail(scope, listener="inbound") is None


@pytest.mark.parametrize(
    ("pattern", "domain", "hit"),
    [
        ("bank.example", "bank.example", True),
        ("bank.example", "BANK.Example", True),
        ("Bank.Example.", "bank.example", True),
        ("bank.example", "mail.bank.example", False),
        ("bank.example", "notbank.example", False),
        (".bank.example", "mail.bank.example", True),
        (".bank.example", "a.b.bank.example", True),
        (".bank.example", "bank.example", False),
        (".bank.example", "notbank.example", False),
        ("müller.example", "xn--mller-kva.example", True),
        ("xn--mller-kva.example", "Müller.example", True),
    ],
)
async def test_domain_scopes(pattern, domain, hit):
    refused = await at_mail({"sender_domains": [pattern]}, sender=f"a@{domain}")
    assert (refused is not None) is hit
    refused = await at_rcpt({"recipient_domains": [pattern]}, recipients=[f"a@{domain}"])
    assert (refused is not None) is hit


async def test_the_null_sender_and_a_bare_postmaster_are_in_no_domain():
    assert await at_mail({"sender_domains": ["example.org"]}, sender="") is None
    assert await at_rcpt({"recipient_domains": ["example.org"]}, recipients=["postmaster"]) is None


async def test_a_recipient_scope_waits_for_the_recipient():
    scope = {"recipient_domains": ["example.net"]}
    assert await at_mail(scope) is None
    assert await at_rcpt(scope, recipients=["b@example.net"]) == (
        "550 5.7.0 Mail to example.net is accepted only over an encrypted connection (TLS)"
    )
    assert await at_rcpt(scope, recipients=["b@example.com"]) is None
    assert await at_rcpt(scope, recipients=["b@example.net"], tls=TLS12) is None


async def test_sender_and_recipient_scopes_both_have_to_match():
    scope = {"recipient_domains": ["example.net"], "sender_domains": ["example.org"]}
    assert await at_rcpt(scope, sender="a@example.org") is not None
    assert await at_rcpt(scope, sender="a@example.com") is None


async def test_requirements_without_recipients_are_not_asked_again_at_rcpt():
    assert await at_rcpt({}) is None


async def test_the_first_unmet_requirement_speaks_and_is_named():
    both = plugin({"listeners": ["other"]}, {"min_version": "1.2"}, {"min_version": "1.3"})
    verdict = await call(both, "mail", mail=make_mail(tls=TLS12))
    assert verdict.reason == "requirement 3: TLSv1.2 is too old"


async def test_a_domain_in_a_reply_is_ascii():
    reply = await at_rcpt({"recipient_domains": [".example"]}, recipients=["b@müller.example"])
    assert "xn--mller-kva.example" in reply


@pytest.mark.parametrize(
    ("requirement", "words"),
    [
        ({"sender_domains": ["*.example.org"]}, "write .example.org"),
        ({"sender_domains": ["a@example.org"]}, "is not a domain"),
        ({"recipient_domains": [""]}, "is not a domain"),
        ({"recipient_domains": ["."]}, "is not a domain"),
        ({"fingerprints": ["abc"]}, "64 hexadecimal digits"),
        ({"min_version": 1.1}, "'1.2' or '1.3'"),
        ({"min_version": "TLSv1.3"}, "'1.2' or '1.3'"),
        ({"recipients": ["example.org"]}, "Extra inputs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(requirement, words):
    with pytest.raises(ValidationError, match=words.replace(".", r"\.").replace("*", r"\*")):
        RequireTlsSettings.model_validate({"requirements": [requirement]})


def test_an_empty_list_is_refused_since_it_would_let_everything_pass():
    with pytest.raises(ValidationError, match="at least 1 item"):
        RequireTlsSettings.model_validate({"requirements": []})


def test_the_schema_takes_the_version_as_yaml_reads_it():
    schema = RequireTlsSettings.model_json_schema()
    assert schema["$defs"]["Requirement"]["properties"]["min_version"]["enum"] == [1.2, 1.3, "1.2", "1.3"]
