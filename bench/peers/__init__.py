"""The relays that are compared. A new peer is a class with `name`, `missing`, `start`, and a line in RELAYS."""

from bench.peers.base import Relay
from bench.peers.body import BodyVerify, Canonical, Sha256
from bench.peers.haproxy import Direct, Haproxy
from bench.peers.haraka import Haraka
from bench.peers.inbound import Inbound
from bench.peers.milters import PostfixOpendkim, PostfixRspamd, PostfixRspamdDefault
from bench.peers.postfix import Postfix
from bench.peers.postgres import RelayProxyPostgres
from bench.peers.relayproxy import RelayProxy
from bench.peers.script import Script, ScriptChecks
from bench.peers.signature import Signature
from bench.peers.spam import Spam
from bench.rules import COUNT

RELAYS: dict[str, Relay] = {
    relay.name: relay
    for relay in (
        RelayProxy(),
        RelayProxy("relayproxy-w2", workers=2),
        RelayProxy("relayproxy-w4", workers=4),
        RelayProxy("relayproxy-dkim", sign=True),
        RelayProxy("relayproxy-checks", check=True),
        Spam(),
        Inbound(),
        RelayProxy("relayproxy-rules", rules=COUNT),
        RelayProxy("relayproxy-queue", workers=2, queue=True),
        RelayProxyPostgres(),
        Script(),
        ScriptChecks(),
        Postfix(),
        PostfixRspamd(),
        PostfixRspamdDefault(),
        PostfixOpendkim(),
        PostfixRspamd(signs=True),
        PostfixOpendkim(signs=True),
        Postfix("postfix-queue", queue=True),
        Haraka(),
        Haproxy(),
        Direct(),
        Signature(),
        Sha256(),
        Canonical(),
        BodyVerify(),
    )
}
