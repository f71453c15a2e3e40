"""Who may be sent a bounce."""

from dataclasses import replace

import pytest
from tests.spool.making import CLIENT, LEAD

from relayproxy.mailauth.authres import header_value
from relayproxy.model.edits import header_line
from relayproxy.model.finding import Finding
from relayproxy.spool.hop import vouched


def results(*findings: Finding) -> bytes:
    """Our trace fields as the core writes them."""
    return header_line("Authentication-Results", header_value("relay.test", findings)) + LEAD


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({}, False),
        ({"trusted": True}, True),
        ({"identity": "ana"}, True),
        ({"trusted": True, "forwarded": True}, False),
    ],
)
def test_by_the_client(changes, known):
    assert vouched(replace(CLIENT, **changes), LEAD) is known


@pytest.mark.parametrize("method", ["spf", "dkim", "dmarc"])
def test_by_a_check_that_passed(method):
    assert vouched(CLIENT, results(Finding("iprev", "fail"), Finding(method, "pass")))
    assert not vouched(CLIENT, results(Finding(method, "fail"), Finding("iprev", "pass")))


@pytest.mark.parametrize(
    "words",
    ["a; dkim=pass", '"x; dkim=pass y"@example.org', "(; spf=pass)", "a spf=pass", '\\"; spf=pass'],
)
def test_words_of_the_sender_are_no_results(words):
    finding = Finding("spf", "fail", props={"smtp.mailfrom": words}, reason=words)
    assert not vouched(CLIENT, results(finding))


def test_results_below_our_trace_fields_are_not_ours():
    assert not vouched(CLIENT, LEAD + b"Authentication-Results: relay.test; spf=pass\r\n")
