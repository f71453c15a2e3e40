"""EHLO, HELO and LHLO: the client's name, and what it is offered in return.

Must not know what the hooks say to the greeting, nor keep anything of a session.
"""

from relayproxy.core.policy import ip_in
from relayproxy.core.services import ListenerServices
from relayproxy.model.client import Client
from relayproxy.model.reply import Reply
from relayproxy.smtp.commands import Offered
from relayproxy.smtp.xclient import XCLIENT_NAMES, XFORWARD_NAMES

_ALL_EXTENSIONS = frozenset({"8BITMIME", "SMTPUTF8", "DSN"})
_PLAIN = Offered(0, eightbit=False, smtputf8=False, dsn=False, auth=False)


def named(client: Client, protocol: str, verb: str, name: str) -> Client | Reply:
    """Return the client under the name that it gives itself, or the refusal."""
    lmtp = protocol == "lmtp"
    if lmtp != (verb == "LHLO"):
        return Reply(500, "5.5.1", f"This is {'LMTP: say LHLO' if lmtp else 'SMTP: say EHLO'}")
    if not name or len(name) > 255 or not name.isprintable() or " " in name:
        return Reply(501, "5.5.4", f"Syntax: {verb} hostname")
    proto = "LMTP" if lmtp else "ESMTP" if verb == "EHLO" else "SMTP"
    return client.greeted(client.helo if client.forwarded else name, proto)


def welcome(at: ListenerServices, client: Client) -> tuple[Offered, Reply]:
    """Return what a client that has said its name is offered, and the reply that says so; remembered by `at`."""
    if client.proto == "SMTP":
        return _PLAIN, Reply(250, "", at.services.hostname)
    known, size = at.capabilities()
    policy = at.policy
    tls, peer = client.tls is not None, client.peer
    xclient = bool(policy.xclient) and ip_in(peer, policy.xclient)
    xforward = bool(policy.xforward) and ip_in(peer, policy.xforward)
    key = (known, size, tls, xclient, xforward)
    made = at.greetings.get(key)
    if made is None:
        made = at.greetings[key] = _greeting(at, known, size, tls=tls, xclient=xclient, xforward=xforward)
    return made


def _greeting(
    at: ListenerServices,
    known: frozenset[str] | None,
    size: int,
    *,
    tls: bool,
    xclient: bool,
    xforward: bool,
) -> tuple[Offered, Reply]:
    """What is offered now: ours, less what the next hops can't take (docs/specifications has the rules)."""
    policy, limits = at.policy, at.policy.limits
    theirs = _ALL_EXTENSIONS if known is None else known
    size = min(size, limits.message_size) if size else limits.message_size
    may_auth = bool(policy.auth_mechanisms) and (tls or not policy.auth_require_tls)
    requiretls = known is not None and "REQUIRETLS" in known and tls
    offered = Offered(
        size,
        eightbit="8BITMIME" in theirs,
        smtputf8="SMTPUTF8" in theirs,
        dsn="DSN" in theirs,
        auth=may_auth,
        requiretls=requiretls,
    )
    lines = ["PIPELINING", f"SIZE {size}", "ENHANCEDSTATUSCODES", "CHUNKING"]
    lines += [name for name in ("8BITMIME", "SMTPUTF8", "DSN") if name in theirs]
    lines.append(f"LIMITS RCPTMAX={limits.recipients} MAILMAX={limits.messages_per_connection}")
    if policy.starttls and not tls:
        lines.append("STARTTLS")
    if may_auth:
        lines.append("AUTH " + " ".join(policy.auth_mechanisms))
    if requiretls:
        lines.append("REQUIRETLS")
    if xclient:
        lines.append("XCLIENT " + " ".join(XCLIENT_NAMES))
    if xforward:
        lines.append("XFORWARD " + " ".join(XFORWARD_NAMES))
    return offered, Reply(250, "", "\n".join((at.services.hostname, *lines)))
