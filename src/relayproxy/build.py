"""The composition root: maps a configuration onto the values and objects that the lower floors work with.

The only place that knows both sides. Builds complete, new objects and changes none: a reload calls it again.
"""

import platform
import ssl
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from relayproxy.config.models import Config, Endpoint, Listener, Source, Upstream
from relayproxy.config.models import Route as RouteModel
from relayproxy.config.unsubscribe import Unsubscribe
from relayproxy.config.values import is_ip
from relayproxy.core.ids import node_from
from relayproxy.core.log import Log
from relayproxy.core.policy import Limits, ListenerPolicy, Relay, Route
from relayproxy.core.ports import Authenticator
from relayproxy.core.services import ListenerServices, Services
from relayproxy.core.shaping import Shape
from relayproxy.delivery.login import UpstreamLogin
from relayproxy.delivery.settings import Address, Timeouts, UpstreamSettings
from relayproxy.delivery.tls_policy import FROM_DNS
from relayproxy.model.queued import HIGH, LOW, NORMAL
from relayproxy.server.passwords import PasswordFile
from relayproxy.server.sockets import Where
from relayproxy.spool.hop import NAME as QUEUE
from relayproxy.spool.lanes import Schedule
from relayproxy.spool.verifying import Verification

_MACHINE_ID = Path("/etc/machine-id")
POOL = "+pool"
"""How the next hop of a pool is called, behind the name of its route; no upstream can have such a name."""

_PRIORITIES = {"high": HIGH, "normal": NORMAL, "low": LOW}


def limits_of(config: Config, listener: Listener) -> Limits:
    """Return a listener's limits."""
    given = config.limits_of(listener)
    return Limits(**{name: getattr(given, name) for name in Limits.__dataclass_fields__})


def policy_of(config: Config, listener: Listener) -> ListenerPolicy:
    """Return how a listener behaves."""
    auth = listener.auth
    return ListenerPolicy(
        name=listener.name,
        protocol=listener.protocol,
        limits=limits_of(config, listener),
        starttls=listener.tls.mode == "starttls" and listener.tls.cert is not None,
        tls_required=listener.tls.required,
        auth_mechanisms=tuple(auth.mechanisms) if auth else (),
        auth_require_tls=auth.require_tls if auth else True,
        auth_required=auth.required if auth else False,
        senders=dict(auth.senders) if auth else {},
        normalise=listener.bare_newlines == "normalise",
        xclient=listener.xclient.networks,
        xforward=listener.xforward.networks,
        proxy=listener.proxy_protocol.networks,
    )


def where_of(listener: Listener) -> Where:
    """Return where a listener listens."""
    return _where(listener.listen, listener.mode)


def node_of(config: Config) -> int | None:
    """Return what tells the ids of this machine from those of others, None where there are no others."""
    if isinstance(config.node, int):
        return config.node
    if config.node is None and (config.spool is None or config.spool.path is not None):
        return None
    try:
        machine = _MACHINE_ID.read_text("ascii", "replace").strip()
    except OSError:
        machine = ""
    # Machines made from one image may have one id.
    return node_from(machine, platform.node(), config.hostname)


def web_places(config: Config) -> tuple[Where | None, Where | None]:
    """Return where the monitoring port and the unsubscribe page listen, None for what there isn't."""
    monitor, page = config.metrics.listen, config.unsubscribe
    return _where(monitor) if monitor else None, _where(page.listen) if page else None


def _where(place: Endpoint, mode: int = 0o660) -> Where:
    return Where(place.host, place.port, str(place.path) if place.path else "", mode)


def listener_tls(listener: Listener) -> ssl.SSLContext | None:
    """Return the TLS context of a listener; raises OSError or ssl.SSLError for files that can't be used.

    Made before the workers are forked, so that all of them can resume a session by its ticket.
    """
    tls = listener.tls
    if tls.mode == "off" or tls.cert is None:
        return None
    context = _server_tls(tls.cert, tls.key, tls.min_version)
    if tls.client_ca is not None:
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def unsubscribe_tls(page: Unsubscribe) -> ssl.SSLContext | None:
    """Return the TLS context of the unsubscribe page; raises OSError or ssl.SSLError."""
    tls = page.tls
    return None if tls is None else _server_tls(tls.cert, tls.key, tls.min_version)


def _server_tls(cert: Path, key: Path | None, min_version: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    context.load_cert_chain(cert, key)
    return context


def upstream_tls(upstream: Upstream, *, verify: bool = True) -> ssl.SSLContext | None:
    """Return the TLS context towards an upstream; raises OSError or ssl.SSLError.

    Without `verify` it takes any certificate, as opportunistic and required TLS do.
    """
    if upstream.tls == "off":
        return None
    context = ssl.create_default_context(cafile=str(upstream.ca) if upstream.ca else None)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if upstream.client_cert is not None:
        context.load_cert_chain(upstream.client_cert, upstream.client_key)
    return context


def upstream_settings(config: Config, name: str, workers: int) -> UpstreamSettings:
    """Return how an upstream is reached; the pool's places are shared out among workers and sources."""
    upstream = config.upstreams[name]
    times = upstream.timeouts
    both = upstream.mx or upstream.tls in FROM_DNS or upstream.tls_ratchet != "off"
    made = UpstreamSettings(
        name=name,
        addresses=addresses_of(upstream),
        hostname=config.hostname,
        protocol=upstream.protocol,
        tls=upstream.tls,
        tls_context=upstream_tls(upstream, verify=both or upstream.tls in ("verify", "implicit")),
        unverified_context=upstream_tls(upstream, verify=False) if both else None,
        policy_domain=upstream.policy_domain or "",
        consult=frozenset(upstream.tls_policies),
        ratchet=upstream.tls_ratchet,
        ratchet_expire=upstream.tls_ratchet_expire,
        login=upstream.login or "",
        password=upstream.password.reveal() if upstream.password else "",
        send_client=upstream.send_client,
        source_address=str(upstream.source_address or ""),
        timeouts=Timeouts(times.connect, times.command, times.data, times.final),
        pool_size=max(1, -(-upstream.pool.size // (workers * max(1, len(upstream.sources))))),
        pool_idle=upstream.pool.idle,
        reuse=upstream.pool.reuse,
        breaker_failures=upstream.breaker.failures,
        breaker_retry=upstream.breaker.retry,
    )
    return sourced(made, upstream.sources[0]) if upstream.sources else made


def addresses_of(upstream: Upstream) -> tuple[Address, ...]:
    """Return all places where an upstream listens."""
    return tuple(
        Address(t.address.host, t.address.port, str(t.address.path) if t.address.path else "", t.weight)
        for t in upstream.targets
    )


def sourced(settings: UpstreamSettings, source: Source) -> UpstreamSettings:
    """Return how an upstream is reached from a local address; those of its addresses that can't be are left out."""
    version = ip_address(source.address).version
    return replace(
        settings,
        source_address=source.address,
        hostname=source.hostname or settings.hostname,
        addresses=tuple(
            one
            for one in settings.addresses
            if not is_ip(one.host) or ip_address(one.host).version == version
        ),
    )


def shapes_of(config: Config, workers: int) -> tuple[Shape, ...]:
    """Return the rules for destinations; transactions at once are shared out among the workers, one at least."""
    return tuple(
        Shape(
            shape.name,
            frozenset(shape.domains),
            frozenset(shape.mx),
            max(1, shape.concurrency // workers) if shape.concurrency else 0,
            shape.rate / 60,
            shape.recipients or 0,
            shape.messages or 0,
            shape.tls is not None,
            shape.retry or (),
        )
        for shape in config.bulk.shaping
    )


def routes_of(config: Config, *, queues: bool = True) -> tuple[Route, ...]:
    """Return the routing table; without `queues` every route leads straight to its upstream.

    Behind what the configuration has stand the upstreams that only a plugin can choose.
    """
    chosen = chosen_routes(config)
    return tuple(
        Route(
            chosen=number >= len(config.table),
            name=route.label,
            upstream=hop_of(route) if queues else route.upstream,
            recipient_domains=frozenset(route.recipient_domains),
            senders=frozenset(route.senders),
            logins=frozenset(route.logins),
            listeners=frozenset(route.listeners),
            networks=route.networks,
        )
        for number, route in enumerate((*config.table, *chosen))
    )


def chosen_routes(config: Config) -> tuple[RouteModel, ...]:
    """Return a route for each upstream that no line of the table is called after; by MX takes the queue."""
    labels = {route.label for route in config.table}
    return tuple(
        RouteModel(upstream=name, delivery="queue" if upstream.mx else "pass-through")
        for name, upstream in config.upstreams.items()
        if name not in labels and (config.spool is not None or not upstream.mx)
    )


def hop_of(route: RouteModel) -> str:
    """Return the name of the next hop that a route's mail is given to: its upstream or pool, or the queue in front."""
    if route.delivery == "queue":
        return QUEUE
    return f"{way_of(route)}{QUEUE}" if route.when_down == "queue" else way_of(route)


def way_of(route: RouteModel) -> str:
    """Return what a route's upstream or pool is called as a next hop."""
    return f"{route.label}{POOL}" if route.pool else route.upstream


def schedule_of(route: RouteModel) -> Schedule:
    """Return how queued mail of a route is tried again."""
    queue = route.queue
    return Schedule(
        queue.retry,
        queue.expire,
        queue.delay_warning,
        queue.concurrency,
        queue.destination_concurrency or 0,
        queue.destination_rate / 60,
        queue.low_above or 0,
    )


def verification_of(route: RouteModel) -> Verification:
    """Return whose recipients are verified before they are queued."""
    queue = route.queue
    return Verification(
        queue.verify_recipients,
        queue.unverifiable == "reject",
        queue.verify_timeout,
        queue.verified_for,
        queue.refused_for,
    )


def priorities_of(config: Config) -> dict[Route, int]:
    """Return the priority of queued mail by route; of equal lines of the table the first counts."""
    found: dict[Route, int] = {}
    for route, model in zip(routes_of(config), (*config.table, *chosen_routes(config)), strict=True):
        found.setdefault(route, _PRIORITIES[model.queue.priority])
    return found


def relay_of(config: Config) -> Relay:
    """Return who may send where."""
    return Relay(frozenset(config.relay.domains), config.relay.networks)


def authenticator_of(
    listener: Listener, upstreams: Mapping[str, UpstreamSettings], log: Log
) -> Authenticator | None:
    """Return what checks the passwords of a listener. Raises OSError and ValueError for a bad password file."""
    backend = listener.auth.backend if listener.auth else None
    if backend is None:
        return None
    if backend.file is not None:
        passwords = PasswordFile(Path(backend.file), log)
        passwords.load()
        return passwords
    assert backend.upstream is not None
    return UpstreamLogin(upstreams[backend.upstream], log)


def listener_services(
    config: Config, services: Services, upstreams: Mapping[str, UpstreamSettings]
) -> list[ListenerServices]:
    """Return policy and counters of every listener, in their order."""
    return [
        ListenerServices(
            services, policy_of(config, listener), authenticator_of(listener, upstreams, services.log)
        )
        for listener in config.listeners
    ]
