"""Aggregate reports: from findings to rows, from rows to XML that keeps to the schema, and into a mail."""

import base64
import gzip
import os
import re
from email import message_from_bytes
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import xmlschema
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.mailauth.dmarc_mail import encoded_attachment, report_mail
from relayproxy.mailauth.dmarc_record import parse_record
from relayproxy.mailauth.dmarc_report import (
    NAMESPACE,
    Published,
    Report,
    Row,
    Signature,
    SpfCheck,
    count_rows,
    to_xml,
)
from relayproxy.mailauth.dmarc_rows import row_of
from relayproxy.mailauth.reports import Reporter, compress
from relayproxy.model.finding import Finding

HERE = Path(__file__).parent
SCHEMA = xmlschema.XMLSchema(HERE / "dmarc-report.xsd")
GOLDEN = HERE / "golden" / "dmarc-report.xml"
REPORTER = Reporter(
    "Example & Söhne", "postmaster@rx.example", "rx.example", "https://rx.example/dmarc", "relayproxy 0"
)
BEGIN, END = 1_700_000_000, 1_700_086_399


def published(record="v=DMARC1; p=reject; sp=quarantine; adkim=s; fo=1; rua=mailto:a@example.org", **facts):
    return Published("example.org", parse_record(record.encode()), **facts)


def row(**facts):
    values = {
        "source_ip": "192.0.2.1",
        "header_from": "example.org",
        "envelope_from": "bounce.example.org",
        "disposition": "none",
        "dkim": True,
        "spf": True,
    }
    return Row(**(values | facts))


FAILED = row(
    source_ip="2001:db8::1",
    envelope_from="",
    disposition="reject",
    dkim=False,
    spf=False,
    signatures=(Signature("other.example", "s1", "fail", "the body was <changed> & more"),),
    spf_checks=(SpfCheck("mail.example", "softfail"),),
)
EXCUSED = row(
    header_from="sub.example.org",
    dkim=False,
    spf=False,
    overrides=(("trusted_forwarder", "excused by the trusted forwarder list.example"),),
)
PASSED = row(
    disposition="pass",
    signatures=(Signature("example.org", "a", "pass"), Signature("example.org", "b", "pass")),
    spf_checks=(SpfCheck("bounce.example.org", "pass"),),
)


def report(*rows, policy=None, **facts):
    return Report(REPORTER, policy or published(), BEGIN, END, count_rows(rows), **facts)


def test_the_report_is_the_golden_file():
    """RELAYPROXY_GOLDEN=write writes it anew."""
    xml = to_xml(report(FAILED, PASSED, EXCUSED, PASSED, PASSED, FAILED, errors=("mailto:x: no",)))
    if os.environ.get("RELAYPROXY_GOLDEN") == "write":
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_bytes(xml)
    assert xml == GOLDEN.read_bytes()
    SCHEMA.validate(xml.decode())


def test_the_schema_of_these_tests_can_refuse():
    for old, new in (("<p>reject</p>", "<p>maybe</p>"), ("<count>1</count>", ""), ("mfrom", "helo")):
        xml = to_xml(report(PASSED)).decode()
        assert old in xml
        assert not SCHEMA.is_valid(xml.replace(old, new))


def test_equal_rows_are_counted_whatever_their_order():
    rows = [PASSED, FAILED, PASSED, EXCUSED, PASSED, FAILED]
    assert count_rows(rows) == ((PASSED, 3), (FAILED, 2), (EXCUSED, 1))
    assert to_xml(report(*rows)) == to_xml(report(*reversed(rows)))
    assert report(*rows).messages == 6


text = st.text(max_size=40)


@given(text, text, text, st.lists(st.tuples(text, text), max_size=3))
def test_no_text_breaks_the_xml(name, domain, reason, signatures):
    """Whatever strangers wrote comes out as one element of text, with what XML can't hold replaced."""
    made = Report(
        Reporter(name, name, "rx.example", name),
        Published(domain, parse_record(b"v=DMARC1; p=none")),
        BEGIN,
        END,
        (
            (
                row(
                    header_from=domain,
                    signatures=tuple(Signature(d, s, "pass", reason) for d, s in signatures),
                ),
                1,
            ),
        ),
        errors=(reason,),
    )
    root = ET.fromstring(to_xml(made))

    def kept(value):
        return re.sub("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", value)

    space = {"r": NAMESPACE}
    assert root.findtext("r:report_metadata/r:org_name", namespaces=space) == kept(name)
    assert root.findtext("r:record/r:identifiers/r:header_from", namespaces=space) == kept(domain)
    found = [one.text or "" for one in root.iterfind(".//r:dkim/r:selector", space)]
    assert found == [kept(selector) for _, selector in signatures]
    SCHEMA.validate(to_xml(made).decode())


# -- from findings to rows -----------------------------------------------------------------------------------------


def dmarc(result="fail", policy="reject", record="v=DMARC1; p=reject", reason="", **props):
    usual = {
        "header.from": "example.org",
        "policy": policy,
        "policy_domain": "example.org",
        "record": record,
        "aligned": "",
        "disposition": "none",
    }
    return Finding(
        "dmarc",
        result,
        props=usual | {k.replace("_from", ".from"): v for k, v in props.items()},
        reason=reason,
    )


@pytest.mark.parametrize(
    ("finding", "outcome", "disposition", "overrides"),
    [
        (dmarc("pass", aligned="spf"), "relayed", "pass", []),
        (dmarc("pass", aligned="spf"), "queued", "pass", []),
        (dmarc("pass", "none", "v=DMARC1; p=none", aligned="spf"), "relayed", "none", []),
        (dmarc("pass", aligned="spf"), "rejected", "pass", []),
        (dmarc(disposition="reject"), "rejected", "reject", []),
        (dmarc(policy="quarantine", record="v=DMARC1; p=quarantine", disposition="quarantine"), "held", "quarantine", []),
        (dmarc(policy="quarantine", record="v=DMARC1; p=quarantine", disposition="reject"), "rejected", "reject", ["local_policy"]),
        # Only observed, whoever refused it then.
        (dmarc(), "relayed", "none", ["local_policy"]),
        (dmarc(), "rejected", "none", ["local_policy"]),
        (dmarc(disposition="reject"), "relayed", "none", ["local_policy"]),
        (dmarc(policy="none", record="v=DMARC1; p=none"), "relayed", "none", []),
        (dmarc(override="trusted_forwarder", reason="why"), "relayed", "none", ["trusted_forwarder"]),
        (dmarc(policy="quarantine", record="v=DMARC1; p=reject; t=y", disposition="quarantine"), "held", "quarantine", ["policy_test_mode"]),
        (dmarc(policy="none", record="v=DMARC1; p=quarantine; t=y"), "relayed", "none", ["policy_test_mode"]),
        (dmarc(policy="none", record="v=DMARC1; p=none; t=y"), "relayed", "none", []),
        (dmarc(policy="quarantine", record="v=DMARC1; p=none; np=reject; t=y", header_from="x.example.org"), "relayed", "none", ["local_policy"]),
        (dmarc("temperror", reason="DNS"), "relayed", "none", ["other"]),
    ],
)  # fmt: skip
def test_what_was_done_and_why(finding, outcome, disposition, overrides):
    _, made = row_of("192.0.2.1", "example.org", outcome, [finding])
    assert (made.disposition, [kind for kind, _ in made.overrides]) == (disposition, overrides)
    SCHEMA.validate(to_xml(report(made)).decode())


@pytest.mark.parametrize(
    ("ip", "outcome", "findings"),
    [
        ("192.0.2.1", "deferred", [dmarc()]),
        ("192.0.2.1", "resent", [dmarc()]),
        ("", "relayed", [dmarc()]),
        ("192.0.2.1", "relayed", []),
        ("192.0.2.1", "relayed", [Finding("dmarc", "none", props={"header.from": "example.org"})]),
        ("192.0.2.1", "relayed", [Finding("dmarc", "permerror")]),
        ("192.0.2.1", "relayed", [dmarc(record="nonsense")]),
    ],
)
def test_what_is_not_reported(ip, outcome, findings):
    assert row_of(ip, "example.org", outcome, findings) is None


@pytest.mark.parametrize(
    ("ip", "source"),
    [("2001:DB8:0::1", "2001:db8::1"), ("::ffff:192.0.2.9", "192.0.2.9"), ("fe80::1%eth0", "fe80::1")],
)
def test_addresses_are_written_in_one_way(ip, source):
    _, made = row_of(ip, "", "relayed", [dmarc()])
    assert made.source_ip == source


def test_signatures_that_matter_most_come_first_and_all_have_a_name():
    def dkim(domain, result="pass", **props):
        return Finding("dkim", result, props={"header.d": domain, "header.s": "s", **props}, reason="why")

    found = [
        dkim("zzz.example", "fail"),
        dkim("other.example"),
        dkim("org"),
        dkim("example.org"),
        dkim("mail.example.org"),
        dkim("example.org"),
        Finding("dkim", "none"),
        Finding("dkim", "permerror", props={"header.d": "example.org"}),
        dmarc("pass", aligned="dkim"),
    ]
    policy, made = row_of("192.0.2.1", "", "relayed", found)
    assert [one.domain for one in made.signatures] == [
        "example.org",
        "mail.example.org",
        "org",
        "other.example",
        "zzz.example",
    ]
    assert [one.reason for one in made.signatures] == ["", "", "", "", "why"]
    assert (policy.domain, made.dkim, made.spf) == ("example.org", True, False)


def test_spf_is_that_of_mail_from_or_of_helo_for_the_null_sender():
    helo = Finding(
        "spf", "fail", props={"smtp.helo": "mx.example.org", "domain": "mx.example.org"}, reason="x"
    )
    sender = Finding("spf", "pass", props={"smtp.mailfrom": "example.org", "domain": "example.org"})
    _, made = row_of("192.0.2.1", "example.org", "relayed", [helo, sender, dmarc()])
    assert made.spf_checks == (SpfCheck("example.org", "pass"),)
    _, made = row_of("192.0.2.1", "", "relayed", [helo, dmarc()])
    assert made.spf_checks == (SpfCheck("mx.example.org", "fail", "x"),)


# -- the file and the mail -----------------------------------------------------------------------------------------


def test_the_file_name_is_that_of_the_rfc():
    made = report(PASSED)
    assert re.fullmatch(rf"rx\.example!example\.org!{BEGIN}!{END}!{made.id}\.xml\.gz", made.file_name)
    assert made.id.isalnum()
    assert made.id == report(FAILED).id
    assert made.id != Report(REPORTER, published(), BEGIN, END + 1, made.rows).id


def test_compressed_files_are_the_same_octets_each_time():
    xml = to_xml(report(PASSED))
    assert compress(xml) == compress(xml)
    assert gzip.decompress(compress(xml)) == xml
    assert compress(xml)[4:8] == bytes(4)  # no time


def test_the_mail_carries_the_report():
    made = report(PASSED, FAILED)
    mail = report_mail(
        made, encoded_attachment(made), author="dmarc@rx.example", to="a@example.org", when=END
    )
    octets = bytes(mail)
    assert all(len(line) <= 998 and not re.search(rb"[\r\n]", line) for line in octets.split(b"\r\n"))
    read = message_from_bytes(octets)
    words = re.sub(r"\s+", " ", read["Subject"])
    assert words == f"Report Domain: example.org Submitter: rx.example Report-ID: <{made.id}>"
    assert read["Message-ID"] == f"<{made.id}@rx.example>"
    assert read["Auto-Submitted"] == "auto-generated"
    note, file = read.get_payload()
    assert "Messages: 2" in note.get_payload()
    assert file.get_content_type() == "application/gzip"
    assert file.get_filename() == made.file_name
    assert gzip.decompress(base64.b64decode(file.get_payload())) == to_xml(made)
