"""The relays that are compared. A new peer is a class with `name`, `missing`, `start`, and a line in RELAYS."""

from bench.peers.base import Relay
from bench.peers.haproxy import Direct, Haproxy
from bench.peers.haraka import Haraka
from bench.peers.postfix import Postfix
from bench.peers.relayproxy import RelayProxy
from bench.peers.script import Script
from bench.peers.signature import Signature

RELAYS: dict[str, Relay] = {
    relay.name: relay
    for relay in (
        RelayProxy(),
        RelayProxy("relayproxy-w2", workers=2),
        RelayProxy("relayproxy-dkim", sign=True),
        RelayProxy("relayproxy-queue", queue=True),
        Script(),
        Postfix(),
        Postfix("postfix-queue", queue=True),
        Haraka(),
        Haproxy(),
        Direct(),
        Signature(),
    )
}
