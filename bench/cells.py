"""The cells of the bench: what is sent, through which relays, and what for. A new cell is a new value here."""

from dataclasses import dataclass

KB, MB = 1024, 1024 * 1024
PEERS = ("relayproxy", "script", "postfix", "haraka", "haproxy", "direct")


@dataclass(frozen=True)
class Cell:
    """One row of the bench.

    `relays` by name (see bench.peers). `per_connection` 0: one connection per session for all its messages.
    `kind`: "load" measures all; "queue" does too, and goes on until the sink has all that was acknowledged; "held" has
    one message per session in flight up to its dot at once; "idle" only opens connections; both are about memory;
    "body" sends nothing at all. `tls`: the version of STARTTLS, or "". `rounds` 0: as many as the run has. `signed`:
    the message has a DKIM signature.
    """

    name: str
    title: str
    relays: tuple[str, ...] = PEERS
    size: int = 4 * KB
    sessions: int = 10
    per_connection: int = 0
    kind: str = "load"
    tls: str = ""
    pipeline: bool = False
    rounds: int = 0
    extra: bool = False
    signed: bool = False


CELLS = (
    Cell("4k-one", "4 KB, 10 sessions, one message per connection", per_connection=1),
    Cell("4k-many", "4 KB, 10 sessions, many messages per connection"),
    Cell("50k", "50 KB, 10 sessions, many messages per connection", size=50 * KB),
    Cell("1m", "1 MB, 10 sessions, many messages per connection", size=MB),
    Cell("s1", "4 KB, 1 session", ("relayproxy", "postfix", "haproxy", "direct"), sessions=1),
    Cell("s50", "4 KB, 50 sessions", ("relayproxy", "postfix", "haproxy", "direct"), sessions=50),
    Cell(
        "starttls",
        "4 KB, 10 sessions, STARTTLS (1.3, tickets), one message per connection",
        ("relayproxy", "relayproxy-w2", "postfix"),
        per_connection=1,
        tls="1.3",
    ),
    Cell(
        "dkim",
        "4 KB, 10 sessions, signed with RSA-2048, many messages per connection",
        ("relayproxy", "relayproxy-dkim", "postfix-rspamd-dkim", "postfix-opendkim-dkim", "signature"),
    ),
    Cell(
        "checks",
        "4 KB, 10 sessions, SPF, DKIM, DMARC and Authentication-Results, many messages per connection",
        ("relayproxy", "relayproxy-checks", "postfix-rspamd", "postfix-opendkim", "script-checks"),
        signed=True,
    ),
    Cell(
        "inbound",
        "4 KB, 10 sessions, all that incoming mail goes through: authentication, DNS lists, rules, score, headers",
        ("relayproxy", "relayproxy-inbound", "postfix-rspamd-default"),
        signed=True,
    ),
    Cell(
        "spam",
        "4 KB, 40 sessions, 4 workers: dnsbl (cached), ratelimit, score, greylist with SQLite state",
        ("relayproxy-w4", "relayproxy-spam"),
        sessions=40,
        rounds=2,
    ),
    Cell("rules", "4 KB, 10 sessions, 200 rules", ("relayproxy", "relayproxy-rules")),
    Cell(
        "held", "20 messages of 10 MB in flight at once", ("relayproxy",), 10 * MB, 20, kind="held", rounds=2
    ),
    Cell(
        "body",
        "DKIM verify of a 10 MB body",
        ("body-sha256", "body-canonical", "body-verify"),
        10 * MB,
        kind="body",
    ),
    Cell("idle", "2,000 idle sessions", ("relayproxy",), sessions=2000, kind="idle", rounds=1),
    Cell(
        "queue",
        "4 KB, 50 sessions, stored before 250 and delivered",
        ("relayproxy-queue", "relayproxy-queue-postgres", "postfix-queue"),
        sessions=50,
        kind="queue",
    ),
    Cell(
        "queue-50k",
        "50 KB, 50 sessions, stored before 250 and delivered",
        ("relayproxy-queue", "relayproxy-queue-postgres", "postfix-queue"),
        50 * KB,
        50,
        kind="queue",
        extra=True,
    ),
    Cell("s100", "4 KB, 100 sessions", ("relayproxy", "haproxy"), sessions=100, rounds=2),
    Cell("s1000", "4 KB, 1,000 sessions", ("relayproxy", "haproxy"), sessions=1000, rounds=2),
    Cell("10m", "10 MB, 10 sessions", ("relayproxy", "haproxy"), 10 * MB, rounds=2),
    Cell("25m", "25 MB, 10 sessions", ("relayproxy", "haproxy"), 25 * MB, rounds=2),
    Cell(
        "starttls-1.2",
        "as starttls, with TLS 1.2",
        ("relayproxy", "relayproxy-w2", "postfix"),
        per_connection=1,
        tls="1.2",
        extra=True,
    ),
    Cell("pipelined", "as 4k-many, MAIL, RCPT and DATA in one write", pipeline=True, extra=True),
)

SESSION_GROWTH = ("s1", "4k-many", "s50", "s100", "s1000")
SIZE_GROWTH = ("4k-many", "50k", "1m", "10m", "25m")
