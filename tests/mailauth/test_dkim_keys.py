import base64

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from relayproxy.mailauth.dkim_keys import (
    KeyFault,
    new_ed25519_key,
    new_rsa_key,
    read_key,
    read_public_key,
)

RSA = new_rsa_key()
ED25519 = new_ed25519_key()
# RFC 8463 appendix A.2
SEED = b"nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="
PUBLIC = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
# A key of 512 bits: nobody can make one any more, but they are still published.
SHORT = base64.b64decode(
    "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAK/5oPmVCHlBrhiRKLvLyzGvvkDAlGZsyVZIHNfPsVY9"
    "XR6QC7Gkv3pIGM1SlvLwJKJQvRAmoXB8wGMfvFH5mR0CAwEAAQ=="
)


def der(key, form=serialization.PublicFormat.SubjectPublicKeyInfo):
    return key.public_key().public_bytes(serialization.Encoding.DER, form)


def private(key, form, encryption=None):
    encryption = encryption or serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, encryption)


@pytest.mark.parametrize("key", [RSA, ED25519], ids=["rsa", "ed25519"])
def test_what_a_key_signs_its_public_half_verifies(key):
    signature = key.sign(b"from:a\r\n")
    assert key.public.verifies(signature, b"from:a\r\n")
    assert not key.public.verifies(signature, b"from:b\r\n")
    assert not key.public.verifies(signature[:-1], b"from:a\r\n")
    assert not key.public.verifies(b"", b"from:a\r\n")
    assert read_public_key(key.public.kind, key.public.octets) == key.public


@pytest.mark.parametrize("key", [RSA, ED25519], ids=["rsa", "ed25519"])
def test_a_key_is_read_as_it_was_written(key):
    again = read_key(key.pem())
    assert (again.algorithm, again.bits, again.record()) == (key.algorithm, key.bits, key.record())


def test_a_record_says_what_verifies():
    assert RSA.record() == f"v=DKIM1; k=rsa; p={base64.b64encode(RSA.public.octets).decode()}"
    assert read_key(SEED).record() == f"v=DKIM1; k=ed25519; p={PUBLIC}"


def test_both_forms_of_pem_and_a_bare_seed_are_read():
    key = rsa.generate_private_key(65537, 1024)
    forms = serialization.PrivateFormat
    for form in (forms.TraditionalOpenSSL, forms.PKCS8):
        assert read_key(private(key, form)).public.octets == der(key)
    assert read_key(b"\n" + SEED + b"\r\n").algorithm == "ed25519-sha256"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0"),
        (b"hello", "base64"),
        (b"\xff", "base64"),
        (b"aGVsbG8=", "5"),
        (b"-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n", "PEM"),
        (RSA.pem()[:-100], "PEM"),
        (
            private(
                rsa.generate_private_key(65537, 1024),
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            ),
            "passphrase",
        ),
        (
            private(ec.generate_private_key(ec.SECP256R1()), serialization.PrivateFormat.PKCS8),
            "neither RSA nor Ed25519",
        ),
    ],
)
def test_what_is_no_key_is_refused_with_a_reason(data, reason):
    with pytest.raises(KeyFault, match=reason) as caught:
        read_key(data)
    assert data.decode("latin-1") not in str(caught.value) or not data


def test_nothing_of_a_private_key_is_shown():
    key = read_key(SEED)
    assert repr(key) == "SigningKey(algorithm='ed25519-sha256', bits=256)"
    assert repr(RSA) == "SigningKey(algorithm='rsa-sha256', bits=2048)"


def test_both_forms_of_published_rsa_keys_are_read():
    key = rsa.generate_private_key(65537, 1024)
    for form in (serialization.PublicFormat.SubjectPublicKeyInfo, serialization.PublicFormat.PKCS1):
        assert read_public_key("rsa", der(key, form)).octets == der(key)


def test_a_short_published_key_is_read():
    assert read_public_key("rsa", SHORT).bits == 512


def public_numbers(exponent, bits):
    numbers = rsa.RSAPublicNumbers(exponent, (1 << bits) - 159).public_key()
    return numbers.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("kind", "octets", "reason"),
    [
        ("rsa", b"", "no rsa key"),
        ("rsa", b"hello", "no rsa key"),
        ("rsa", ED25519.public.octets, "no rsa key"),
        ("rsa", der(ec.generate_private_key(ec.SECP256R1())), "no rsa key"),
        ("ed25519", RSA.public.octets, "no ed25519 key"),
        ("ed25519", ED25519.public.octets[:-1], "no ed25519 key"),
        ("rsa", public_numbers(65537, 8200), "larger than 8192"),
        ("rsa", public_numbers((1 << 64) + 1, 2048), "larger than"),
    ],
)
def test_what_is_no_public_key_is_refused(kind, octets, reason):
    with pytest.raises(KeyFault, match=reason):
        read_public_key(kind, octets)
