"""Reports on TLS from the first connection to the signed report at an upstream, or at an HTTPS server."""

import base64
import gzip
import json
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, HTTPServer

import dkim
import pytest
from click.testing import CliRunner
from tests.history.making import NOON, kept
from tests.servers.nameserver import serving
from tests.servers.tls import make_certificates

from relayproxy.cli.tls import tls
from relayproxy.cli.tls_post import usable
from relayproxy.mailauth.dkim_keys import new_rsa_key
from relayproxy.model.event import TlsEvent
from relayproxy.testing.upstream import UpstreamSink

KEY = new_rsa_key()
SETTINGS = {"organization": "Sender", "contact": "postmaster@tx.example", "from_address": "tls@tx.example"}
DAY_OF = datetime.fromtimestamp(NOON, UTC).strftime("%Y-%m-%d")
LINES = ("version: STSv1", "mode: enforce", "mx: *.a.example", "max_age: 86400")


@pytest.fixture
def reports(tmp_path, monkeypatch):
    """An HTTPS server for reports whose certificate the program trusts: (port, posts, status of the answers)."""
    certificates = make_certificates(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
    with posts_taken(certificates) as server:
        yield server


@contextmanager
def posts_taken(certificates):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            octets = self.rfile.read(int(self.headers["Content-Length"]))
            server.posts.append((self.path, dict(self.headers), octets))
            self.send_response(server.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.posts, server.status = [], 201
    server.socket = certificates.server_context().wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def connection(domain="a.example", result="success", policy="sts", **facts):
    values = {"policy_strings": LINES, "mx_patterns": ("*.a.example",)} if policy == "sts" else {}
    return TlsEvent(NOON, "out", domain, f"mx.{domain}", 25, policy, result, "TLSv1.3", **(values | facts))


def prepare(relay, sink, name_server, *events, **more):
    key = relay.folder / "keys" / "tx.example" / "s1.key"
    key.parent.mkdir(parents=True)
    key.touch(mode=0o600)
    key.write_bytes(KEY.pem())
    relay.configure(
        sink.address,
        dns={"servers": [f"127.0.0.1:{name_server}"]},
        history={"url": f"sqlite://{relay.folder}/history.db", "retention": "3650d"},
        tls_reports=SETTINGS | {"post_to_private": True},
        pipeline=[{"dkim_sign": {"keys": "keys"}}],
        **more,
    )
    if events:
        kept(relay.folder / "history.db", *events)


async def report(relay, *arguments, code=0):
    status, output = await relay.output("tls", "report", "-C", str(relay.config_file), "--json", *arguments)
    assert status == code, output
    return {
        one["domain"]: [(fate["destination"], fate["state"]) for fate in one["destinations"]]
        for one in json.loads(output)
    }


async def test_reports_are_sent_signed_and_posted_and_once(relay, reports):
    uri = f"https://127.0.0.1:{reports.server_port}/v1?x=1"
    zone = {
        "_smtp._tls.a.example": f"v=TLSRPTv1; rua=mailto:tls@a.example,{uri}",
        "_smtp._tls.b.example": "v=TLSRPTv1; rua=ftp://b.example",
    }
    events = (
        connection(),
        connection(),
        connection(result="certificate-expired", reason="it is old"),
        connection(policy="opportunistic", result="starttls-not-supported"),
        connection("b.example"),
        connection("quiet.example"),
        connection("192.0.2.1"),
    )
    reports.status = 503
    with serving(zone) as name_server:
        async with UpstreamSink() as sink:
            prepare(relay, sink, name_server, *events)
            everywhere = [("tls@a.example", "would-send"), (uri, "would-send")]
            refused = {"b.example": [("ftp://b.example", "refused")]}
            assert await report(relay, "--since", DAY_OF) == {"a.example": everywhere, **refused}
            assert await report(
                relay, "--since", DAY_OF, "--send", "--dry-run", "--domain", "A.example."
            ) == {"a.example": everywhere}
            assert (sink.messages, reports.posts) == ([], [])
            found = await report(relay, "--since", DAY_OF, "--send", code=1)
            assert found["a.example"] == [("tls@a.example", "sent"), (uri, "failed")]
            reports.status = 201
            found = await report(relay, "--since", DAY_OF, "--send", "-o", str(relay.folder))
            assert found["a.example"] == [("tls@a.example", "already-sent"), (uri, "sent")]
            (mail,) = sink.messages
    assert dkim.verify(mail.content, dnsfunc=lambda name, timeout=5: KEY.record().encode())
    read = message_from_bytes(mail.content)
    assert "d=tx.example;" in read["DKIM-Signature"]
    assert (read["TLS-Report-Domain"], mail.sender) == ("a.example", "")
    octets = gzip.decompress(base64.b64decode(read.get_payload()[1].get_payload()))
    path, headers, posted = reports.posts[-1]
    assert path == "/v1?x=1"
    assert headers["Content-Type"] == "application/tlsrpt+gzip"
    assert gzip.decompress(posted) == octets
    (file,) = relay.folder.glob("tx.example!a.example!*.json.gz")
    assert file.read_bytes() == posted
    value = json.loads(octets)
    none, sts = value["policies"]
    assert none["policy"] == {"policy-type": "no-policy-found", "policy-domain": "a.example"}
    assert none["summary"]["total-failure-session-count"] == 1
    assert sts["policy"]["policy-string"] == list(LINES)
    assert sts["summary"] == {"total-successful-session-count": 2, "total-failure-session-count": 1}
    (detail,) = sts["failure-details"]
    assert (detail["result-type"], detail["failure-reason-code"]) == ("certificate-expired", "it is old")


async def test_a_report_of_a_queue_waits_in_the_queue_and_the_worker_delivers_it(relay):
    with serving({"_smtp._tls.a.example": "v=TLSRPTv1; rua=mailto:tls@a.example"}) as name_server:
        async with UpstreamSink() as sink:
            (relay.folder / "spool").mkdir()
            prepare(
                relay,
                sink,
                name_server,
                connection(),
                spool={"url": f"sqlite://{relay.folder}/spool/s.db", "min_free": "1 MB"},
                routes=[{"upstream": "sink", "delivery": "queue"}],
            )
            found = await report(relay, "--since", DAY_OF, "--send")
            assert found == {"a.example": [("tls@a.example", "sent")]}
            assert sink.messages == []
            found = await report(relay, "--since", DAY_OF, "--send")
            assert found == {"a.example": [("tls@a.example", "already-sent")]}
            await relay.start()
            await sink.until_messages(1)
            (mail,) = sink.messages
            await relay.finish()
    assert mail.recipients == ("tls@a.example",)
    assert dkim.verify(mail.content, dnsfunc=lambda name, timeout=5: KEY.record().encode())


async def test_a_report_does_not_reach_into_our_network(relay, reports):
    uri = f"https://127.0.0.1:{reports.server_port}/"
    with serving({"_smtp._tls.a.example": f"v=TLSRPTv1; rua={uri}"}) as name_server:
        async with UpstreamSink() as sink:
            prepare(relay, sink, name_server, connection())
            config = json.loads(relay.config_file.read_text())
            config["tls_reports"] = SETTINGS
            relay.config_file.write_text(json.dumps(config))
            status, output = await relay.output(
                "tls", "report", "-C", str(relay.config_file), "--since", DAY_OF, "--send"
            )
    assert status == 1
    assert "no address that may be used" in output
    assert reports.posts == []


def test_which_addresses_are_private():
    addresses = ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fd00::1", "::ffff:10.0.0.1", "8.8.8.8"]
    assert usable(addresses, private=False) == ["8.8.8.8"]
    assert usable(addresses, private=True) == addresses


async def test_a_failing_look_up_is_tried_again(relay):
    async with UpstreamSink() as sink:
        prepare(relay, sink, 9, connection())
        config = json.loads(relay.config_file.read_text())
        config["dns"]["timeout"] = "200ms"
        relay.config_file.write_text(json.dumps(config))
        found = await report(relay, "--since", DAY_OF, "--send", code=1)
        assert found == {"a.example": [("_smtp._tls.a.example", "failed")]}


def refusal(tmp_path, *arguments, config="", code):
    (tmp_path / "c.yaml").write_text(
        "version: 1\nlisteners: [{name: a, listen: 127.0.0.1:2525}]\nupstreams: {u: {address: 127.0.0.1:2526}}\n"
        + config
    )
    done = CliRunner().invoke(tls, ["report", "-C", str(tmp_path / "c.yaml"), *arguments])
    assert done.exit_code == code, done.output
    return done.output


def test_what_keeps_reports_from_being_made(tmp_path):
    assert "history and tls_reports" in refusal(tmp_path, code=78)
    config = f"history: {{url: 'sqlite://{tmp_path}/none.db'}}\ntls_reports: {json.dumps(SETTINGS)}\n"
    assert "none.db" in refusal(tmp_path, config=config, code=1)
    assert "before it begins" in refusal(tmp_path, "--since", "2026-01-02", "--until", "2026-01-01", code=2)
    assert "has not ended" in refusal(tmp_path, "--send", "--until", "2999-01-01", code=2)
    assert "RP309" in refusal(tmp_path, config=f"tls_reports: {json.dumps(SETTINGS)}\n", code=78)


async def test_a_queue_that_cannot_be_opened_is_said(relay):
    with serving({"_smtp._tls.a.example": "v=TLSRPTv1; rua=mailto:tls@a.example"}) as name_server:
        async with UpstreamSink() as sink:
            (relay.folder / "spool" / "s.db").mkdir(parents=True)
            prepare(
                relay,
                sink,
                name_server,
                connection(),
                spool={"url": f"sqlite://{relay.folder}/spool/s.db"},
                routes=[{"upstream": "sink", "delivery": "queue"}],
            )
            status, output = await relay.output(
                "tls", "report", "-C", str(relay.config_file), "--since", DAY_OF, "--send"
            )
    assert status == 1
    assert "Traceback" not in output
    assert "s.db" in output
