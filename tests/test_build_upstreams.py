"""From a configuration to how an upstream is reached: every key, the TLS context, the shared-out pool."""

import ssl
from pathlib import Path
from typing import Any

import pytest
from tests.servers.tls import Certificates
from tests.test_build import a_config, covered

from relayproxy import build
from relayproxy.config.models import Breaker as BreakerModel
from relayproxy.config.models import Pool, Source, Timeouts, Upstream
from relayproxy.core.shaping import Shape
from relayproxy.delivery.settings import Address, UpstreamSettings
from relayproxy.delivery.settings import Timeouts as Patience


def an_upstream(workers: int = 1, **changes: Any) -> UpstreamSettings:
    config = a_config(upstreams={"up": {"address": "10.0.0.5:25", "tls": "off", **changes}})
    return build.upstream_settings(config, "up", workers)


def test_every_key_arrives(certificates: Certificates, tmp_path: Path):
    covered(
        Upstream,
        *(
            "address",
            "addresses",
            "protocol",
            "tls",
            "ca",
            "client_cert",
            "client_key",
            "login",
            "password",
        ),
        *(
            "send_client",
            "timeouts",
            "pool",
            "breaker",
            "source_address",
            "sources",
            "warmup",
            "mx",
            "mx_port",
            "policy_domain",
            "tls_policies",
            "tls_ratchet",
            "tls_ratchet_expire",
        ),
    )
    covered(Timeouts, "connect", "command", "data", "final")
    covered(Pool, "size", "idle", "reuse")
    covered(BreakerModel, "failures", "retry")
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("sesame\n")
    made = an_upstream(
        address=None,
        addresses=["10.0.0.5:25", {"address": "[2001:db8::5]:2525", "weight": 3}, "unix:/run/lmtp"],
        protocol="lmtp",
        tls="implicit",
        ca=str(certificates.ca),
        client_cert=str(certificates.client),
        client_key=str(certificates.client_key),
        login="relay",
        password={"file": str(secret)},
        send_client="xforward",
        timeouts={"connect": "1s", "command": "2s", "data": "3s", "final": "4s"},
        pool={"size": 10, "idle": "11s", "reuse": 12},
        breaker={"failures": 13, "retry": "14s"},
        source_address="192.0.2.9",
        tls_policies=["dane"],
        tls_ratchet="warn",
        tls_ratchet_expire="15s",
    )
    assert made.unverified_context is not None
    assert made.tls_context is not None
    assert made == UpstreamSettings(
        name="up",
        addresses=(
            Address("10.0.0.5", 25),
            Address("2001:db8::5", 2525, weight=3),
            Address(path="/run/lmtp"),
        ),
        hostname="mx.example.org",
        protocol="lmtp",
        tls="implicit",
        tls_context=made.tls_context,
        unverified_context=made.unverified_context,
        consult=frozenset({"dane"}),
        ratchet="warn",
        ratchet_expire=15.0,
        login="relay",
        password="sesame",
        send_client="xforward",
        source_address="192.0.2.9",
        timeouts=Patience(1.0, 2.0, 3.0, 4.0),
        pool_size=10,
        pool_idle=11.0,
        reuse=12,
        breaker_failures=13,
        breaker_retry=14.0,
    )
    assert "sesame" not in repr(made)


@pytest.mark.parametrize(("size", "workers", "each"), [(10, 1, 10), (10, 3, 4), (10, 10, 1), (2, 8, 1)])
def test_the_pools_places_are_shared_out(size: int, workers: int, each: int):
    assert an_upstream(workers, pool={"size": size}).pool_size == each


@pytest.mark.parametrize(
    ("policy", "verifies"),
    [("off", None), ("opportunistic", False), ("required", False), ("verify", True), ("implicit", True)],
)
def test_which_policies_look_at_the_certificate(policy: str, verifies: bool | None):
    context = an_upstream(tls=policy).tls_context
    if verifies is None:
        assert context is None
        return
    assert context is not None
    assert context.check_hostname is verifies
    assert context.verify_mode == (ssl.CERT_REQUIRED if verifies else ssl.CERT_NONE)


def test_whose_word_is_taken(certificates: Certificates):
    ours = an_upstream(tls="verify", ca=str(certificates.ca)).tls_context
    systems = an_upstream(tls="verify").tls_context
    assert ours is not None
    assert systems is not None
    assert len(ours.get_ca_certs()) == 1
    assert len(systems.get_ca_certs()) != 1


def test_files_that_cannot_be_used(certificates: Certificates, tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        an_upstream(tls="verify", ca=str(tmp_path / "missing"))
    with pytest.raises(ssl.SSLError):
        an_upstream(
            tls="verify", client_cert=str(certificates.client), client_key=str(certificates.server_key)
        )


def test_dane_and_mta_sts_have_a_context_that_verifies_and_one_that_does_not():
    for tls, more in (("dane", {}), ("mta-sts", {"policy_domain": "example.net"})):
        made = an_upstream(address="mx.example.net:25", tls=tls, **more)
        assert made.tls_context is not None
        assert made.unverified_context is not None
        assert (made.tls_context.verify_mode, made.unverified_context.verify_mode) == (
            ssl.CERT_REQUIRED,
            ssl.CERT_NONE,
        )
        assert made.policy_domain == more.get("policy_domain", "")
    assert an_upstream(tls="verify").unverified_context is None


def test_from_a_source_only_what_it_can_reach():
    addresses = ["10.0.0.5:25", {"address": "[2001:db8::5]:25", "weight": 3}, "mx.example.org:25"]
    sources = ["192.0.2.9", {"address": "2001:db8::9", "hostname": "six.example.org"}]
    config = a_config(upstreams={"up": {"addresses": addresses, "sources": sources, "pool": {"size": 12}}})
    first = build.upstream_settings(config, "up", 2)
    assert (first.source_address, first.hostname, first.pool_size) == ("192.0.2.9", "mx.example.org", 3)
    assert [one.host for one in first.addresses] == ["10.0.0.5", "mx.example.org"]


def test_six_from_six():
    settings = an_upstream(addresses=["10.0.0.5:25", "[2001:db8::5]:25"], address=None)
    source = Source(address="2001:db8::9", hostname="six.example.org")
    made = build.sourced(settings, source)
    assert (made.source_address, made.hostname) == ("2001:db8::9", "six.example.org")
    assert [one.host for one in made.addresses] == ["2001:db8::5"]


def test_places_of_a_rule_are_shared_out_and_one_is_left():
    rule = {
        "name": "x",
        "mx": [".example.org"],
        "concurrency": 5,
        "rate": 90,
        "retry": ["1m"],
        "tls": "required",
    }
    config = a_config(bulk={"shaping": [rule]})
    (shape,) = build.shapes_of(config, 2)
    assert shape == Shape(
        "x", frozenset(), frozenset({".example.org"}), 2, 1.5, 0, 0, tls_required=True, retry=(60.0,)
    )
    assert build.shapes_of(config, 8)[0].concurrency == 1
