"""Reports on TLS: from counts to JSON that reads back as what it was made of, and into a mail."""

import base64
import gzip
import json
from email import message_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.mailauth.dane import Tlsa
from relayproxy.mailauth.mta_sts import parse_policy
from relayproxy.mailauth.reports import Reporter
from relayproxy.mailauth.tls_mail import report_mail
from relayproxy.mailauth.tls_report import (
    POLICY_TYPES,
    Failure,
    Policy,
    Report,
    Seen,
    sts_strings,
    tlsa_strings,
    to_json,
)
from relayproxy.model.event import TLS_RESULTS

REPORTER = Reporter("Example & Söhne", "postmaster@tx.example", "tx.example")
BEGIN, END = 1_700_006_400, 1_700_092_799


def read_back(octets):
    """Make of the JSON what it was made of."""
    value = json.loads(octets)
    seen = []
    for one in value["policies"]:
        policy, summary = one["policy"], one["summary"]
        failures = {}
        for detail in one.get("failure-details", ()):
            failure = Failure(
                detail["result-type"],
                detail.get("receiving-mx-hostname", ""),
                detail.get("failure-reason-code", ""),
            )
            assert failure not in failures
            failures[failure] = detail["failed-session-count"]
        assert sum(failures.values()) == summary["total-failure-session-count"]
        seen.append(
            Seen(
                Policy(
                    policy["policy-type"],
                    policy["policy-domain"],
                    tuple(policy.get("policy-string", ())),
                    tuple(policy.get("mx-host", ())),
                ),
                summary["total-successful-session-count"],
                failures,
            )
        )
    return seen


text = st.text(max_size=30)
failure = st.builds(Failure, st.sampled_from(TLS_RESULTS[1:]), text, text)
policy = st.builds(
    Policy,
    st.sampled_from(POLICY_TYPES),
    st.just("example.org"),
    st.lists(text, max_size=3).map(tuple),
    st.lists(text, max_size=3).map(tuple),
)
seens = st.lists(
    st.builds(
        Seen, policy, st.integers(0, 10**9), st.dictionaries(failure, st.integers(1, 10**6), max_size=20)
    ),
    max_size=4,
    unique_by=lambda one: one.policy,
)


@given(seens)
def test_a_report_reads_back_as_what_it_was_made_of(seen):
    report = Report(REPORTER, "example.org", BEGIN, END, tuple(seen))
    octets = to_json(report)
    assert octets.isascii()
    assert read_back(octets) == sorted(seen, key=lambda one: one.policy)
    assert to_json(Report(REPORTER, "example.org", BEGIN, END, tuple(reversed(seen)))) == octets


def test_the_fields_are_those_of_rfc_8460():
    sts = parse_policy(b"version: STSv1\nmode: enforce\nmx: *.mx.example\nmax_age: 86400\n")
    seen = Seen(
        Policy("sts", "example.org", sts_strings(sts), sts.mx),
        7,
        {Failure("certificate-expired", "a.mx.example", "certificate has expired"): 2},
    )
    value = json.loads(to_json(Report(REPORTER, "example.org", BEGIN, END, (seen,))))
    identity = value.pop("report-id")
    assert len(identity) == 32
    assert value == {
        "organization-name": "Example & Söhne",
        "date-range": {"start-datetime": "2023-11-15T00:00:00Z", "end-datetime": "2023-11-15T23:59:59Z"},
        "contact-info": "postmaster@tx.example",
        "policies": [
            {
                "policy": {
                    "policy-type": "sts",
                    "policy-string": [
                        "version: STSv1",
                        "mode: enforce",
                        "mx: *.mx.example",
                        "max_age: 86400",
                    ],
                    "policy-domain": "example.org",
                    "mx-host": ["*.mx.example"],
                },
                "summary": {"total-successful-session-count": 7, "total-failure-session-count": 2},
                "failure-details": [
                    {
                        "result-type": "certificate-expired",
                        "receiving-mx-hostname": "a.mx.example",
                        "failed-session-count": 2,
                        "failure-reason-code": "certificate has expired",
                    }
                ],
            }
        ],
    }


def test_tlsa_records_are_written_as_in_a_zone():
    assert tlsa_strings([Tlsa(3, 1, 1, b"\xab" * 32), Tlsa(2, 0, 1, b"\x01" * 32)]) == (
        "2 0 1 " + "01" * 32,
        "3 1 1 " + "AB" * 32,
    )


@pytest.mark.parametrize(("hosts", "reasons"), [(1, 5000), (5000, 1)])
def test_very_many_failures_are_counted_but_not_all_told_apart(hosts, reasons):
    failures = {
        Failure("validation-failure", f"h{host}.example", f"r{reason}"): 1
        for host in range(hosts)
        for reason in range(reasons)
    }
    report = Report(REPORTER, "example.org", BEGIN, END, (Seen(Policy("sts", "example.org"), 0, failures),))
    (seen,) = read_back(to_json(report))
    assert sum(seen.failures.values()) == 5000
    assert len(seen.failures) <= 102


def test_the_mail_says_what_it_is():
    seen = Seen(Policy("tlsa", "example.org"), 3, {Failure("validation-failure", "mx.example.org"): 1})
    report = Report(REPORTER, "example.org", BEGIN, END, (seen,))
    mail = message_from_bytes(
        bytes(report_mail(report, author="tls@tx.example", to="rua@example.org", when=END + 60))
    )
    assert (
        " ".join(mail["Subject"].split())
        == f"Report Domain: example.org Submitter: tx.example Report-ID: <{report.id}>"
    )
    assert (mail["TLS-Report-Domain"], mail["TLS-Report-Submitter"]) == ("example.org", "tx.example")
    assert mail["TLS-Required"] == "No"
    assert mail.get_content_type() == "multipart/report"
    assert mail.get_param("report-type") == "tlsrpt"
    words, attachment = mail.get_payload()
    assert "should be: 3" in words.get_payload()
    assert attachment.get_content_type() == "application/tlsrpt+gzip"
    assert attachment.get_filename() == f"tx.example!example.org!{BEGIN}!{END}!{report.id}.json.gz"
    assert gzip.decompress(base64.b64decode(attachment.get_payload())) == to_json(report)
