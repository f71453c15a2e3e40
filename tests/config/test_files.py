"""The files that a configuration names."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from relayproxy.config.load import load

NOW = dt.datetime.now(dt.UTC)


def write_pair(folder, name="mx", *, days=90.0):
    """Write a self-signed certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mx.example.org")])
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - dt.timedelta(days=100))
        .not_valid_after(NOW + dt.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    path = folder / f"{name}.key"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    path.chmod(0o600)


def found(
    folder,
    *,
    tls="mode: starttls, cert: mx.pem, key: mx.key",
    listener="",
    upstream="",
    more="",
    environ=None,
):
    text = (
        "version: 1\nhostname: mx.example.org\nlisteners:\n"
        f'  - {{name: main, listen: "127.0.0.1:2525", tls: {{{tls}}}{listener}}}\n'
        "relay: {domains: [example.org]}\n"
        f'upstreams:\n  store: {{address: "127.0.0.1:2526"{upstream}}}\n{more}'
    )
    path = folder / "relayproxy.yaml"
    path.write_text(text)
    assert load(path, environ=environ or {}).problems == ()
    return [
        (p.code, p.severity, p.line, p.message)
        for p in load(path, environ=environ or {}, files=True).problems
    ]


def test_all_is_well(tmp_path):
    write_pair(tmp_path)
    assert found(tmp_path) == []


@pytest.mark.parametrize("name", ["mx.pem", "mx.key"])
def test_a_missing_file(tmp_path, name):
    write_pair(tmp_path)
    (tmp_path / name).unlink()
    ((code, severity, line, message),) = found(tmp_path)
    assert (code, severity, line) == ("RP501", "error", 4)
    assert message == f"{tmp_path / name}: No such file or directory"


def test_both_files_missing_are_two_problems(tmp_path):
    assert [code for code, *_ in found(tmp_path)] == ["RP501", "RP501"]


def test_a_key_of_another_certificate(tmp_path):
    write_pair(tmp_path)
    pem = (tmp_path / "mx.pem").read_bytes()
    write_pair(tmp_path)
    (tmp_path / "mx.pem").write_bytes(pem)
    ((code, _, _, message),) = found(tmp_path)
    assert code == "RP501"
    assert "doesn't belong to" in message


@pytest.mark.parametrize(
    ("name", "text"), [("mx.pem", "no certificate"), ("mx.key", "no usable private key")]
)
def test_a_file_of_something_else(tmp_path, name, text):
    write_pair(tmp_path)
    (tmp_path / name).write_text("something else\n")
    ((code, _, _, message),) = found(tmp_path)
    assert code == "RP501"
    assert text in message


def test_a_key_that_everybody_can_read(tmp_path):
    write_pair(tmp_path)
    (tmp_path / "mx.key").chmod(0o644)
    ((code, severity, _, message),) = found(tmp_path)
    assert (code, severity) == ("RP502", "warning")
    assert "mx.key can be read by everybody" in message


@pytest.mark.parametrize(("days", "text"), [(-1, "has ended"), (5.5, "ends in 5 days")])
def test_a_certificate_that_ends(tmp_path, days, text):
    write_pair(tmp_path, days=days)
    ((code, severity, _, message),) = found(tmp_path)
    assert (code, severity) == ("RP503", "warning")
    assert text in message


def test_authorities(tmp_path):
    write_pair(tmp_path)
    assert found(tmp_path, upstream=", tls: verify, ca: mx.pem") == []
    (tmp_path / "empty.pem").write_text("nothing\n")
    assert [code for code, *_ in found(tmp_path, upstream=", tls: verify, ca: empty.pem")] == ["RP501"]
    assert [code for code, *_ in found(tmp_path, upstream=", tls: verify, ca: none.pem")] == ["RP501"]


def test_a_client_certificate_with_its_key_in_one_file(tmp_path):
    write_pair(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes((tmp_path / "mx.pem").read_bytes() + (tmp_path / "mx.key").read_bytes())
    both.chmod(0o600)
    assert found(tmp_path, upstream=", client_cert: both.pem") == []
    both.unlink()
    assert [code for code, *_ in found(tmp_path, upstream=", client_cert: both.pem")] == ["RP501"]


def test_secrets_that_can_not_be_found(tmp_path):
    write_pair(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    secret.chmod(0o644)
    for place, environ, message in (
        ("{env: NAME}", {}, "the environment variable NAME is not set"),
        ("{env: NAME}", {"NAME": ""}, "(env NAME) is empty"),
        ("{file: none}", {}, f"{tmp_path / 'none'}: No such file or directory"),
        ("{file: secret}", {}, f"{secret} can be read by everybody (mode 0644): chmod o= {secret}"),
        ("{credential: smtp}", {}, "$CREDENTIALS_DIRECTORY is not set: systemd sets it for LoadCredential="),
    ):
        upstream = f", login: u, tls: verify, password: {place}"
        assert found(tmp_path, upstream=upstream, environ=environ) == [("RP121", "error", 7, message)]


def test_secrets_that_are_found(tmp_path):
    write_pair(tmp_path)
    (tmp_path / "smtp").write_text("hunter2\n")
    (tmp_path / "smtp").chmod(0o600)
    for place, environ in (
        ("{env: NAME}", {"NAME": "hunter2"}),
        ("{file: smtp}", {}),
        ("{credential: smtp}", {"CREDENTIALS_DIRECTORY": str(tmp_path)}),
    ):
        upstream = f", login: u, tls: verify, password: {place}"
        assert found(tmp_path, upstream=upstream, environ=environ) == []
        config = load(tmp_path / "relayproxy.yaml", environ=environ).config
        assert config.upstreams["store"].password.reveal() == "hunter2"
        assert "hunter2" not in repr(config)


def test_password_files(tmp_path):
    write_pair(tmp_path)
    passwords = tmp_path / "passwords.txt"
    auth = ", auth: {backend: passwords.txt}"
    assert [code for code, *_ in found(tmp_path, listener=auth)] == ["RP504"]
    passwords.write_text("# logins\nana:$2b$12$abc\n\nbob:plain\n")
    passwords.chmod(0o600)
    ((code, _, _, message),) = found(tmp_path, listener=auth)
    assert (code, message) == ("RP504", f"{passwords}:4: wanted login:hash")
    passwords.write_text("ana:$2b$12$abc\n")
    passwords.chmod(0o604)
    assert [code for code, *_ in found(tmp_path, listener=auth)] == ["RP502"]


def test_folders_of_sockets(tmp_path):
    write_pair(tmp_path)
    more = "control: {socket: none/control.sock}\n"
    ((code, _, line, message),) = found(tmp_path, more=more)
    assert (code, line, message) == ("RP501", 8, f"the folder {tmp_path / 'none'} is not there")


def test_the_secrets_of_plugins_are_read(tmp_path):
    more = (
        "pipeline:\n  - srs:\n      domain: example.org\n      secrets:\n"
        "        - {env: FIRST}\n        - {file: second.key}\n"
    )
    environ = {"FIRST": "x" * 20}
    (tmp_path / "second.key").write_text("y" * 20)
    (tmp_path / "second.key").chmod(0o600)
    write_pair(tmp_path)
    assert found(tmp_path, more=more, environ=environ) == []
    (tmp_path / "second.key").unlink()
    assert found(tmp_path, more=more) == [
        ("RP121", "error", 12, "the environment variable FIRST is not set"),
        ("RP121", "error", 13, f"{tmp_path}/second.key: No such file or directory"),
    ]
