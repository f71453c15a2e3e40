"""What would be dangerous: open relays, forged clients, passwords in the clear, ports open to the world.

Warnings, as there may be a firewall that we can't see; an error only for our own password, which nothing there would
protect. Must not touch anything outside the values.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from relayproxy.config import yaml
from relayproxy.config.models import Config, Endpoint, Listener, Upstream
from relayproxy.config.problems import Found

_WIDE_V4, _WIDE_V6 = 15, 31
_WARN = "warning"


def check_safety(config: Config, *, whole: bool) -> Iterator[Found]:
    """Yield what an attacker would like. Without `whole`, nothing is said about what is not there."""
    yield from _relay(config)
    for number, listener in enumerate(config.listeners):
        yield from _listener(number, listener)
    for name, upstream in config.upstreams.items():
        yield from _upstream(name, upstream)
    metrics = config.metrics.listen
    if metrics is not None and _is_public(metrics):
        message = "the monitoring port has no password"
        yield "RP704", _WARN, ("metrics", "listen"), message, "listen on 127.0.0.1"
    relay = config.relay
    if whole and not relay.domains and not relay.networks and not any(row.auth for row in config.listeners):
        at: yaml.Path = ("relay",) if "relay" in config.model_fields_set else ()
        message = "nobody may send anything, as neither domains, networks nor logins are named"
        yield "RP706", _WARN, at, message, "write relay: {domains: [example.org]}"


def _is_wide(network: IPv4Network | IPv6Network) -> bool:
    """Whether a network is larger than one organisation's: private ones aren't, as no stranger is in them."""
    limit = _WIDE_V4 if isinstance(network, IPv4Network) else _WIDE_V6
    return network.prefixlen <= limit and (network.prefixlen == 0 or not network.is_private)


def _wide(networks: Iterable[IPv4Network | IPv6Network], at: yaml.Path) -> Iterator[tuple[yaml.Path, Any]]:
    for number, network in enumerate(networks):
        if _is_wide(network):
            yield (*at, number), network


def _relay(config: Config) -> Iterator[Found]:
    for at, network in _wide(config.relay.networks, ("relay", "networks")):
        if network.prefixlen == 0:
            message = f"{network} makes this an open relay"
            yield "RP701", _WARN, at, message, "list your own networks only"
        else:
            message = f"{network} lets very many clients relay"
            yield "RP702", _WARN, at, message, "list your own networks only"
    for number, domain in enumerate(config.relay.domains):
        if _is_suffix(domain.removeprefix(".")):
            message = f"'{domain}' is not one organisation's domain"
            yield "RP705", _WARN, ("relay", "domains", number), message, "list your own domains"


def _listener(number: int, listener: Listener) -> Iterator[Found]:
    at: yaml.Path = ("listeners", number)
    for key in ("xclient", "xforward", "proxy_protocol"):
        for place, network in _wide(getattr(listener, key).networks, (*at, key, "networks")):
            message = f"{network} may speak for any client"
            yield "RP702", _WARN, place, message, "list your own proxies only"
    auth = listener.auth
    if auth and not auth.require_tls and not listener.listen.is_loopback:
        message = "passwords may come unencrypted"
        yield "RP703", _WARN, (*at, "auth", "require_tls"), message, "write require_tls: true"
    if auth and auth.require_tls and listener.tls.mode == "off":
        message = "AUTH is offered only over TLS, which is off here"
        yield "RP703", _WARN, (*at, "auth"), message, "write tls: {mode: starttls, cert: ..., key: ...}"


def _upstream(name: str, upstream: Upstream) -> Iterator[Found]:
    local = all(target.address.is_loopback for target in upstream.targets)
    if upstream.login and upstream.tls not in ("verify", "implicit", "dane", "mta-sts") and not local:
        message = "a password would go to whoever answers"
        yield "RP703", "error", ("upstreams", name, "login"), message, "use tls: verify, or implicit"


def _is_public(endpoint: Endpoint) -> bool:
    """Whether strangers may reach an endpoint, as far as the text tells."""
    if endpoint.is_loopback:
        return False
    try:
        address = ip_address(endpoint.host)
    except ValueError:
        return True
    return address.is_unspecified or not address.is_private


def _is_suffix(domain: str) -> bool:
    """Whether others register names below a domain; a single label stands for everything below it."""
    return "." not in domain or bool(_suffixes().is_public(domain))


@cache
def _suffixes() -> Any:
    from publicsuffixlist import PublicSuffixList  # noqa: PLC0415  (80 ms that few configurations need)

    return PublicSuffixList()
