"""Aggregate reports from the first mail to the signed report at an upstream, with real processes and real DNS."""

import base64
import gzip
import json
from datetime import UTC, datetime
from email import message_from_bytes
from pathlib import Path
from xml.etree import ElementTree as ET

import dkim
import pytest
import xmlschema
from click.testing import CliRunner
from tests.history.making import DAY, NOON, kept, message
from tests.servers.client import Client
from tests.servers.nameserver import serving

from relayproxy.cli.dmarc import dmarc
from relayproxy.mailauth.dkim_keys import new_rsa_key
from relayproxy.model.finding import Finding
from relayproxy.testing.upstream import Fault, Step, UpstreamSink, answer

SCHEMA = xmlschema.XMLSchema(Path(__file__).parents[1] / "mailauth" / "dmarc-report.xsd")
KEY = new_rsa_key()
SPACE = {"r": "urn:ietf:params:xml:ns:dmarc-2.0"}
RECORDS = {
    "a.example": "v=DMARC1; p=reject; rua=mailto:dmarc@a.example,mailto:x@reports.example!1m",
    "b.example": "v=DMARC1; p=none; rua=mailto:x@victim.example",
    "c.example": "v=DMARC1; p=none; rua=mailto:x@c.example!10,mailto:y@c.example",
    "d.example": "v=DMARC1; p=none",
}
ZONE = {
    **{f"_dmarc.{domain}": record for domain, record in RECORDS.items()},
    "a.example": "v=spf1 ip4:127.0.0.1 -all",
    "a.example._report._dmarc.reports.example": "v=DMARC1",
}
SETTINGS = {
    "organization": "Receiver",
    "contact": "postmaster@rx.example",
    "from_address": "dmarc@rx.example",
}
DAY_OF = datetime.fromtimestamp(NOON, UTC).strftime("%Y-%m-%d")


@pytest.fixture
def name_server():
    with serving(ZONE) as port:
        yield port


def seen(number, domain, *, result="fail", to=("b@rx.example",), at=NOON):
    record = RECORDS[domain]
    props = {
        "header.from": domain,
        "policy_domain": domain,
        "policy": record.partition("p=")[2].partition(";")[0],
        "record": record,
        "aligned": "",
        "disposition": "none",
    }
    spf = Finding("spf", "fail", props={"smtp.mailfrom": "x.example", "domain": "x.example"})
    return message(
        number, at=at, to=to, ip="192.0.2.1", findings=(spf, Finding("dmarc", result, props=props))
    )


def prepare(relay, sink, name_server, /, **more):
    key = relay.folder / "keys" / "rx.example" / "s1.key"
    key.parent.mkdir(parents=True)
    key.touch(mode=0o600)
    key.write_bytes(KEY.pem())
    relay.configure(
        sink.address,
        dns={"servers": [f"127.0.0.1:{name_server}"]},
        history={"url": f"sqlite://{relay.folder}/history.db", "retention": "3650d"},
        **{
            "dmarc_reports": SETTINGS,
            "pipeline": ["spf", "dkim_verify", "dmarc", {"dkim_sign": {"keys": "keys"}}],
            **more,
        },
    )


async def report(relay, *arguments, code=0):
    status, output = await relay.output("dmarc", "report", "-C", str(relay.config_file), "--json", *arguments)
    assert status == code, output
    return {
        one["domain"]: [(fate["destination"], fate["state"]) for fate in one["destinations"]]
        for one in json.loads(output)
    }


async def test_mail_that_came_is_reported_on(relay, name_server):
    async with UpstreamSink() as sink:
        prepare(relay, sink, name_server, relay={"domains": ["rx.example"]})
        await relay.start()
        async with await Client.open(relay.port) as client:
            for author in ("a.example", "a.example", "b.example"):
                content = f"From: joe@{author}\r\nSubject: x\r\n\r\nHi.\r\n".encode()
                assert (await client.message(content, "joe@a.example", ("b@rx.example",))).code == 250
        await relay.finish()
        today = datetime.now(UTC).strftime("%Y-%m-%d")
        found = await report(relay, "--since", today, "-o", str(relay.folder))
        assert found == {
            "a.example": [("dmarc@a.example", "would-send"), ("x@reports.example", "would-send")],
            "b.example": [("x@victim.example", "refused")],
        }
        (file,) = relay.folder.glob("rx.example!a.example!*.xml.gz")
        xml = gzip.decompress(file.read_bytes())
        SCHEMA.validate(xml.decode())
        root = ET.fromstring(xml)
        texts = {
            name: root.findtext(f".//r:{name}", namespaces=SPACE)
            for name in (
                "count",
                "source_ip",
                "disposition",
                "spf",
                "dkim",
                "header_from",
                "envelope_from",
                "p",
            )
        }
        assert texts == {
            "count": "2",
            "source_ip": "127.0.0.1",
            "disposition": "pass",
            "spf": "pass",
            "dkim": "fail",
            "header_from": "a.example",
            "envelope_from": "a.example",
            "p": "reject",
        }
        assert len(sink.messages) == 3


async def test_reports_are_sent_signed_and_once(relay, name_server):
    async with UpstreamSink(refusals={"dmarc@a.example": b"450 4.2.1 later\r\n"}) as sink:
        prepare(relay, sink, name_server)
        domains = ("a.example", "a.example", "b.example", "c.example", "d.example")
        kept(relay.folder / "history.db", *(seen(n, domain) for n, domain in enumerate(domains)))
        found = await report(relay, "--since", DAY_OF, "--send", code=1)
        assert found == {
            "a.example": [("dmarc@a.example", "failed"), ("x@reports.example", "sent")],
            "b.example": [("x@victim.example", "refused")],
            "c.example": [("x@c.example", "too-large"), ("y@c.example", "sent")],
        }
        assert [one.recipients for one in sink.messages] == [("x@reports.example",), ("y@c.example",)]
        first = sink.messages[0]
        assert first.sender == ""
        assert dkim.verify(first.content, dnsfunc=lambda name, timeout=5: KEY.record().encode())
        read = message_from_bytes(first.content)
        assert "d=rx.example;" in read["DKIM-Signature"]
        assert (read["From"], read["To"]) == ("dmarc@rx.example", "x@reports.example")
        xml = gzip.decompress(base64.b64decode(read.get_payload()[1].get_payload()))
        SCHEMA.validate(xml.decode())
        assert ET.fromstring(xml).findtext(".//r:count", namespaces=SPACE) == "2"

        # Again: only what was not taken, under the same id.
        sink.refusals = {}
        found = await report(relay, "--since", DAY_OF, "--send")
        assert found["a.example"] == [("dmarc@a.example", "sent"), ("x@reports.example", "already-sent")]
        assert found["c.example"][1] == ("y@c.example", "already-sent")
        assert len(sink.messages) == 3
        again = message_from_bytes(sink.messages[2].content)
        assert again["Message-ID"] == read["Message-ID"]
        assert again["Subject"] == read["Subject"]


async def test_a_report_that_passes_another_proxy_still_verifies(relay, name_server):
    async with UpstreamSink() as sink:
        prepare(relay, sink, name_server)
        await relay.start()
        kept(relay.folder / "history.db", seen(1, "a.example"))
        config = json.loads(relay.config_file.read_text())
        config["upstreams"]["sink"]["address"] = f"127.0.0.1:{relay.port}"
        other = relay.folder / "other.yaml"
        other.write_text(json.dumps(config))
        status, output = await relay.output("dmarc", "report", "-C", str(other), "--since", DAY_OF, "--send")
        assert (status, output.count("  sent")) == (0, 2), output
        for one in sink.messages:
            assert dkim.verify(one.content, dnsfunc=lambda name, timeout=5: KEY.record().encode())
            assert one.content.count(b"\r\nReceived: ") + one.content.startswith(b"Received: ") == 2


async def test_a_report_that_cannot_be_signed_is_not_sent(relay, name_server):
    async with UpstreamSink() as sink:
        broken = "from relayproxy.api import hook\n\n\n@hook\ndef before_forward(mail):\n    raise ValueError('no key')\n"
        prepare(relay, sink, name_server, pipeline=["dmarc", "broken"], plugin_folders=["plugins"])
        (relay.folder / "plugins").mkdir()
        (relay.folder / "plugins" / "broken.py").write_text(broken)
        relay.expect_tracebacks()
        kept(relay.folder / "history.db", seen(1, "a.example"))
        status, output = await relay.output(
            "dmarc", "report", "-C", str(relay.config_file), "--since", DAY_OF, "--send"
        )
        assert status == 1
        assert "failed" in output
        assert "451" in output
        assert sink.messages == []


async def test_a_dead_upstream_fails_each_and_loses_none(relay, name_server):
    async with UpstreamSink() as sink:
        sink.plan.add(Fault(Step.DATA, answer(451, "4.3.0 no"), times=0))
        prepare(relay, sink, name_server)
        kept(relay.folder / "history.db", seen(1, "a.example"), seen(2, "c.example"))
        found = await report(relay, "--since", DAY_OF, "--send", code=1)
        assert [state for fates in found.values() for _, state in fates] == [
            "failed",
            "failed",
            "too-large",
            "failed",
        ]
        found = await report(relay, "--since", DAY_OF, "--send", "--dry-run")
        assert [state for _, state in found["a.example"]] == ["would-send", "would-send"]
        assert sink.messages == []


async def test_mail_that_carries_reports_to_us_is_not_reported_on(relay, name_server):
    async with UpstreamSink() as sink:
        prepare(relay, sink, name_server, dmarc_reports=SETTINGS | {"ignore_recipients": ["In@rx.example"]})
        to_us = ("in@rx.example", "postmaster@rx.example")
        kept(
            relay.folder / "history.db",
            seen(1, "a.example", to=to_us),
            seen(2, "c.example", to=(*to_us, "b@rx.example")),
            seen(3, "b.example", at=NOON + DAY),
        )
        assert list(await report(relay, "--since", DAY_OF)) == ["c.example"]
        assert list(await report(relay, "--since", DAY_OF, "--domain", "C.example.")) == ["c.example"]
        assert await report(relay, "--since", DAY_OF, "--domain", "a.example") == {}


async def test_domains_may_be_left_out(relay, name_server):
    async with UpstreamSink() as sink:
        prepare(relay, sink, name_server, dmarc_reports=SETTINGS | {"exclude_domains": ["a.example"]})
        kept(relay.folder / "history.db", seen(1, "a.example"), seen(2, "c.example"))
        assert list(await report(relay, "--since", DAY_OF)) == ["c.example"]


def refusal(tmp_path, *arguments, config="", code):
    (tmp_path / "c.yaml").write_text(
        "version: 1\nlisteners: [{name: a, listen: 127.0.0.1:2525}]\nupstreams: {u: {address: 127.0.0.1:2526}}\n"
        + config
    )
    done = CliRunner().invoke(dmarc, ["report", "-C", str(tmp_path / "c.yaml"), *arguments])
    assert done.exit_code == code, done.output
    return done.output


def test_what_keeps_reports_from_being_made(tmp_path):
    assert "history and dmarc_reports" in refusal(tmp_path, code=78)
    config = f"history: {{url: 'sqlite://{tmp_path}/none.db'}}\ndmarc_reports: {json.dumps(SETTINGS)}\n"
    assert "none.db" in refusal(tmp_path, config=config, code=1)
    assert "before it begins" in refusal(tmp_path, "--since", "2026-01-02", "--until", "2026-01-01", code=2)
    assert "has not ended" in refusal(tmp_path, "--send", "--until", "2999-01-01", code=2)
    assert "2026-11-24T12:00" in refusal(tmp_path, "--since", "yesterday", code=2)
    assert "RP309" in refusal(tmp_path, config=f"dmarc_reports: {json.dumps(SETTINGS)}\n", code=78)
