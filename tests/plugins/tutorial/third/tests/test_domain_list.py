from pathlib import Path

import pytest

from relayproxy.api import App, DnsStatus
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.mail import load_plugin, make_mail, run_hook
from relayproxy.testing.resolver import FakeResolver

PLUGIN = Path(__file__).parents[1] / "domain_list.py"


@pytest.mark.parametrize(
    ("answer", "refused", "result"),
    [
        (["127.0.0.2"], True, "hit"),
        (["192.0.2.1"], False, None),
        (DnsStatus.NXDOMAIN, False, None),
        (DnsStatus.SERVFAIL, False, "temperror"),
        (DnsStatus.TIMEOUT, False, "temperror"),
    ],
)
def test_what_the_list_may_answer(answer, refused, result, tmp_path):
    resolver = FakeResolver({("example.org.dbl.example", "A"): answer})
    plugin = load_plugin(PLUGIN, zone="dbl.example")
    run_hook(plugin, "startup", app=App("mx.example.net", resolver, FakeClock(), tmp_path))
    mail = make_mail(sender="a@example.org")
    verdict = run_hook(plugin, "mail", mail=mail)
    assert (verdict is not None) is refused
    finding = mail.finding("domain_list")
    assert (finding.result if finding else None) == result


def test_a_bounce_has_no_domain(tmp_path):
    plugin = load_plugin(PLUGIN, zone="dbl.example")
    run_hook(plugin, "startup", app=App("mx.example.net", FakeResolver(), FakeClock(), tmp_path))
    assert run_hook(plugin, "mail", mail=make_mail(sender="")) is None
