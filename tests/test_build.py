"""From a configuration to the values of the lower floors: every key that means something arrives."""

import json
import ssl
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.servers.tls import Certificates

from relayproxy import build
from relayproxy.config.models import (
    Auth,
    Config,
    Limits,
    Listener,
    ListenerTls,
    Relay,
)
from relayproxy.config.routes import Route as RouteModel
from relayproxy.core.log import Log
from relayproxy.core.metrics import Metrics
from relayproxy.core.pipeline import Pipeline
from relayproxy.core.policy import Limits as Bounds
from relayproxy.core.policy import ListenerPolicy, Route
from relayproxy.core.policy import Relay as RelayRights
from relayproxy.core.services import Budget, Services
from relayproxy.delivery.login import UpstreamLogin
from relayproxy.model.queued import HIGH, NORMAL
from relayproxy.server.passwords import PasswordFile
from relayproxy.server.sockets import Where
from relayproxy.spool.lanes import Schedule
from relayproxy.spool.verifying import Verification
from relayproxy.testing import FakeClock

NOWHERE = Log(lambda _: None, lambda: 0.0)


def a_config(**changes: Any) -> Config:
    return Config.model_validate(
        {
            "version": 1,
            "hostname": "MX.Example.ORG",
            "listeners": [{"name": "main", "listen": "127.0.0.1:2525"}],
            "upstreams": {"up": {"address": "10.0.0.5:25"}},
            **changes,
        }
    )


def a_listener(**changes: Any) -> tuple[Config, Listener]:
    config = a_config(listeners=[{"name": "main", "listen": "127.0.0.1:2525", **changes}])
    return config, config.listeners[0]


def covered(model: type[BaseModel], *names: str) -> None:
    """Fail when the model has a key that these tests don't know."""
    assert set(model.model_fields) == set(names)


EVERY_LIMIT = {
    "message_size": 1001,
    "recipients": 2,
    "messages_per_connection": 3,
    "connections": 4,
    "connections_per_client": 5,
    "command_line": 1026,
    "command_timeout": "7s",
    "data_timeout": "8s",
    "handshake_timeout": "9s",
    "bogus_commands": 10,
    "idle_commands": 15,
    "auth_failures": 11,
    "headers": 12,
    "header_bytes": 13,
    "received_hops": 14,
    "message_budget": "15s",
}


class TestLimits:
    def test_every_limit_arrives(self):
        covered(Limits, *EVERY_LIMIT, "bytes_in_flight")
        assert set(Bounds.__dataclass_fields__) == set(EVERY_LIMIT)
        _, listener = (config := a_config(limits=EVERY_LIMIT)), config.listeners[0]
        bounds = build.limits_of(config, listener)
        for name, value in EVERY_LIMIT.items():
            wanted = float(value[:-1]) if isinstance(value, str) else value
            assert getattr(bounds, name) == wanted, name

    def test_a_listeners_own_go_before_the_global_ones(self):
        config = a_config(
            limits={"recipients": 7, "headers": 77},
            listeners=[
                {"name": "one", "listen": "127.0.0.1:1", "limits": {"recipients": 8}},
                {"name": "two", "listen": "127.0.0.1:2"},
            ],
        )
        one, two = (build.limits_of(config, listener) for listener in config.listeners)
        assert (one.recipients, one.headers) == (8, 77)
        assert (two.recipients, two.headers) == (7, 77)


class TestListeners:
    def test_a_bare_one(self):
        config, listener = a_listener()
        bounds = build.limits_of(config, listener)
        assert build.policy_of(config, listener) == ListenerPolicy("main", limits=bounds)
        assert build.where_of(listener) == Where("127.0.0.1", 2525)
        assert build.listener_tls(listener) is None

    def test_every_key_arrives(self, certificates: Certificates):
        covered(
            Listener,
            *("name", "listen", "mode", "protocol", "tls", "auth"),
            *("proxy_protocol", "xclient", "xforward", "bare_newlines", "limits"),
        )
        covered(ListenerTls, "mode", "cert", "key", "min_version", "client_ca", "required")
        covered(Auth, "mechanisms", "backend", "require_tls", "required", "senders")
        config, listener = a_listener(
            protocol="lmtp",
            tls={"cert": str(certificates.server), "key": str(certificates.server_key), "required": True},
            auth={
                "mechanisms": ["login"],
                "require_tls": False,
                "required": True,
                "senders": {"ana": ["Ana@Example.org", ".example.net", "<>"]},
            },
            proxy_protocol={"networks": ["10.1.0.0/16"]},
            xclient={"networks": ["10.2.0.0/16", "::1"]},
            xforward={"networks": ["10.3.0.0/16"]},
            bare_newlines="normalise",
            limits={"recipients": 5},
        )
        assert build.limits_of(config, listener).recipients == 5
        assert build.policy_of(config, listener) == ListenerPolicy(
            "main",
            protocol="lmtp",
            limits=build.limits_of(config, listener),
            starttls=True,
            tls_required=True,
            auth_mechanisms=("LOGIN",),
            auth_require_tls=False,
            auth_required=True,
            senders={"ana": ("Ana@example.org", ".example.net", "<>")},
            normalise=True,
            proxy=(ip_network("10.1.0.0/16"),),
            xclient=(ip_network("10.2.0.0/16"), ip_network("::1")),
            xforward=(ip_network("10.3.0.0/16"),),
        )

    def test_a_unix_socket(self):
        _, listener = a_listener(listen="unix:/run/x.sock", mode="0600")
        assert build.where_of(listener) == Where(path="/run/x.sock", mode=0o600)
        _, listener = a_listener(listen="[::1]:25")
        assert build.where_of(listener) == Where("::1", 25)

    @pytest.mark.parametrize(
        ("mode", "starttls", "made"),
        [("starttls", True, True), ("implicit", False, True), ("off", False, False)],
    )
    def test_modes_of_tls(self, certificates: Certificates, mode: str, starttls: bool, made: bool):
        config, listener = a_listener(
            tls={"mode": mode, "cert": str(certificates.server), "key": str(certificates.server_key)}
        )
        assert build.policy_of(config, listener).starttls is starttls
        assert (build.listener_tls(listener) is not None) is made

    @pytest.mark.parametrize(
        ("version", "least"), [("1.2", ssl.TLSVersion.TLSv1_2), (1.3, ssl.TLSVersion.TLSv1_3)]
    )
    def test_the_tls_context(self, certificates: Certificates, version: Any, least: ssl.TLSVersion):
        tls = {"cert": str(certificates.server), "key": str(certificates.server_key), "min_version": version}
        context = build.listener_tls(a_listener(tls=tls)[1])
        assert context is not None
        assert context.minimum_version == least
        assert context.verify_mode == ssl.CERT_NONE
        assert context.options & ssl.OP_NO_COMPRESSION
        assert context.options & ssl.OP_NO_RENEGOTIATION
        context = build.listener_tls(a_listener(tls=tls | {"client_ca": str(certificates.ca)})[1])
        assert context is not None
        assert context.verify_mode == ssl.CERT_OPTIONAL
        assert len(context.get_ca_certs()) == 1

    def test_files_that_cannot_be_used(self, certificates: Certificates, tmp_path: Path):
        missing = {"cert": str(tmp_path / "missing.pem"), "key": str(certificates.server_key)}
        with pytest.raises(FileNotFoundError):
            build.listener_tls(a_listener(tls=missing)[1])
        other = {"cert": str(certificates.server), "key": str(certificates.client_key)}
        with pytest.raises(ssl.SSLError):
            build.listener_tls(a_listener(tls=other)[1])

    def test_what_checks_passwords(self, tmp_path: Path):
        file = tmp_path / "passwords"
        file.write_text("")
        _, none = a_listener()
        _, plugins_only = a_listener(auth={})
        _, by_file = a_listener(auth={"backend": str(file)})
        config, by_upstream = a_listener(auth={"backend": {"upstream": "up"}})
        settings = {"up": build.upstream_settings(config, "up", 1)}
        assert build.authenticator_of(none, settings, NOWHERE) is None
        assert build.authenticator_of(plugins_only, settings, NOWHERE) is None
        assert isinstance(build.authenticator_of(by_file, settings, NOWHERE), PasswordFile)
        assert isinstance(build.authenticator_of(by_upstream, settings, NOWHERE), UpstreamLogin)
        file.write_text("nonsense\n")
        with pytest.raises(ValueError, match="passwords:1"):
            build.authenticator_of(by_file, settings, NOWHERE)
        file.unlink()
        with pytest.raises(FileNotFoundError):
            build.authenticator_of(by_file, settings, NOWHERE)


class TestRoutes:
    def test_every_key_arrives(self):
        covered(
            RouteModel,
            *(
                "upstream",
                "pool",
                "name",
                "delivery",
                "when_down",
                "queue",
                "recipient_domains",
                "senders",
                "logins",
                "listeners",
                "networks",
            ),
        )
        config = a_config(
            routes=[
                {
                    "upstream": "up",
                    "name": "special",
                    "recipient_domains": ["Example.COM", ".example.net"],
                    "senders": ["ana@example.org", "<>"],
                    "logins": ["ana"],
                    "listeners": ["main"],
                    "networks": ["10.0.0.0/8"],
                },
                {"upstream": "up"},
            ]
        )
        assert build.routes_of(config) == (
            Route(
                "special",
                "up",
                frozenset({"example.com", ".example.net"}),
                frozenset({"ana@example.org", "<>"}),
                frozenset({"ana"}),
                frozenset({"main"}),
                (ip_network("10.0.0.0/8"),),
            ),
            Route("up", "up"),
        )

    def test_what_is_queued_goes_to_the_queue(self):
        config = a_config(
            routes=[
                {"upstream": "up", "name": "first", "delivery": "queue", "senders": ["<>"]},
                {"upstream": "up", "when_down": "queue", "queue": {"retry": ["1s", "2s"], "expire": "1h"}},
            ],
            spool={"url": "sqlite:///var/spool/relayproxy/spool.db"},
        )
        assert [route.upstream for route in build.routes_of(config)] == ["+queue", "up+queue"]
        assert build.schedule_of(config.routes[1]) == Schedule((1.0, 2.0), 3600.0, 14400.0, 20)
        assert build.verification_of(config.routes[0]) == Verification("unverified")

    def test_how_recipients_are_verified(self):
        queue = {
            "verify_recipients": "always",
            "unverifiable": "reject",
            "verify_timeout": "3s",
            "verified_for": "0s",
            "refused_for": "1m",
        }
        config = a_config(
            routes=[{"upstream": "up", "delivery": "queue", "queue": queue}],
            spool={"url": "sqlite:///var/spool/relayproxy/spool.db"},
        )
        assert build.verification_of(config.routes[0]) == Verification("always", True, 3.0, 0.0, 60.0)

    def test_routes_to_one_upstream_may_differ_in_priority_alone(self):
        queue = {"destination_rate": 120, "destination_concurrency": 3, "low_above": "1 MB"}
        config = a_config(
            routes=[
                {
                    "upstream": "up",
                    "delivery": "queue",
                    "logins": ["a"],
                    "queue": {**queue, "priority": "high"},
                },
                {"upstream": "up", "delivery": "queue", "queue": queue},
            ],
            spool={"url": "sqlite:///var/spool/relayproxy/spool.db"},
        )
        first, second = build.routes_of(config)
        assert build.priorities_of(config) == {first: HIGH, second: NORMAL}
        schedule = build.schedule_of(config.routes[1])
        assert (schedule.per_destination, schedule.rate, schedule.low_above) == (3, 2.0, 1_000_000)

    def test_the_only_upstream_takes_all(self):
        assert build.routes_of(a_config()) == (Route("up", "up"),)

    def test_who_may_relay(self):
        covered(Relay, "domains", "networks")
        config = a_config(relay={"domains": ["Example.COM"], "networks": ["10.0.0.0/8"]})
        assert build.relay_of(config) == RelayRights(frozenset({"example.com"}), (ip_network("10.0.0.0/8"),))
        assert build.relay_of(a_config()) == RelayRights()


def test_listeners_with_their_services(certificates: Certificates):
    config = a_config(
        listeners=[
            {"name": "one", "listen": "127.0.0.1:1"},
            {"name": "two", "listen": "127.0.0.1:2", "auth": {"backend": {"upstream": "up"}}},
        ]
    )
    metrics = Metrics()
    services = Services(
        hostname=config.hostname,
        relay=build.relay_of(config),
        routes=(),
        hops={},
        pipeline=Pipeline([], clock=FakeClock(), log=NOWHERE, metrics=metrics),
        ledger=None,  # type: ignore[arg-type]
        log=NOWHERE,
        metrics=metrics,
        clock=FakeClock(),
        budget=Budget(1, metrics.cell("bytes_in_flight")),
    )
    settings = {"up": build.upstream_settings(config, "up", 1)}
    one, two = build.listener_services(config, services, settings)
    assert (one.policy.name, one.authenticator) == ("one", None)
    assert two.policy.auth_mechanisms == ("PLAIN", "LOGIN")
    assert isinstance(two.authenticator, UpstreamLogin)


def test_a_configuration_is_data_again():
    """What these tests build from is what the loader builds: the dump of one is the other."""
    config = a_config(limits=EVERY_LIMIT)
    again = Config.model_validate(json.loads(config.model_dump_json()))
    assert again == config


def test_ids_name_the_machine_where_there_are_several(monkeypatch, tmp_path):
    shared = {"spool": {"url": "postgresql://db.example/spool"}}
    local = {"spool": {"url": "sqlite:///var/spool/x.db"}}
    assert build.node_of(a_config()) is build.node_of(a_config(**local)) is None
    assert build.node_of(a_config(node=7)) == build.node_of(a_config(node=7, **shared)) == 7
    machine = tmp_path / "machine-id"
    monkeypatch.setattr(build, "_MACHINE_ID", machine)
    found = [build.node_of(a_config(**shared))]
    for text in ("one", "two"):
        machine.write_text(text)
        found.append(build.node_of(a_config(**shared)))
    found.append(build.node_of(a_config(hostname="other.example.org", **shared)))
    assert len(set(found)) == 4
    assert build.node_of(a_config(node="auto")) == found[2]
