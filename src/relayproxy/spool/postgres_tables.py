"""The tables of the PostgreSQL store, and the text of its statements; most are one transaction by themselves.

One statement takes many rows as arrays, so a group of messages costs one round trip and one commit. Must not know
connections. `due` means the same as in the SQLite store: nobody else may touch a part before then.

A content above what is kept inline is cut into rows of `chunk`: a single bytea of many megabytes is copied whole
several times at both ends. Large objects would avoid that too, but they have 32-bit numbers, rights of their own, and
don't go when the row goes that refers to them.
"""

from relayproxy.spool.rows import LEASE, MESSAGE, RECIPIENT

VERSION = 3
LOCK = 5_927_431_005_001
"""The advisory lock under which tables are made; one more is for what only one worker should do at a time."""

SCHEMA = """
CREATE TABLE message (
  seq bigint PRIMARY KEY, id text NOT NULL, origin text NOT NULL, sender text NOT NULL,
  received double precision NOT NULL, size bigint NOT NULL, meta text NOT NULL, digest bytea NOT NULL, content bytea
);
CREATE INDEX message_id ON message (id);
CREATE TABLE part (
  message bigint NOT NULL, part integer NOT NULL, route text NOT NULL, destination text NOT NULL,
  standing text NOT NULL, reason text NOT NULL, due double precision NOT NULL, attempts integer NOT NULL,
  owner text NOT NULL, epoch integer NOT NULL, warned integer NOT NULL,
  tenant text NOT NULL, priority integer NOT NULL,
  PRIMARY KEY (message, part)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE INDEX part_due ON part (route, due) WHERE standing = 'queued';
CREATE INDEX part_turn ON part (route, priority, tenant, due) WHERE standing = 'queued';
CREATE INDEX part_held ON part (due) WHERE standing = 'held';
CREATE TABLE recipient (
  message bigint NOT NULL, number integer NOT NULL, part integer NOT NULL, address text NOT NULL,
  notify text NOT NULL, orcpt text NOT NULL, reply text NOT NULL,
  PRIMARY KEY (message, number)
);
CREATE TABLE chunk (
  message bigint NOT NULL, number integer NOT NULL, octets bytea NOT NULL,
  PRIMARY KEY (message, number)
);
ALTER TABLE message ALTER COLUMN content SET STORAGE EXTERNAL;
ALTER TABLE chunk ALTER COLUMN octets SET STORAGE EXTERNAL;
CREATE TABLE imported (seq bigint PRIMARY KEY, at double precision NOT NULL);
CREATE TABLE spool_version (version integer NOT NULL);
"""

_MESSAGE_TYPES = ("bigint", "text", "text", "text", "float8", "bigint", "text", "bytea", "bytea")
_PART_TYPES = (
    *("bigint", "integer", "text", "text", "text", "text", "float8", "integer", "text", "integer", "integer"),
    *("text", "integer"),
)
_RECIPIENT_TYPES = ("bigint", "integer", "integer", "text", "text", "text", "text")


def _rows(types: tuple[str, ...], octets: str = "%s") -> str:
    marks = ", ".join(f"{octets if kind == 'bytea' else '%s'}::{kind}[]" for kind in types)
    return f"SELECT * FROM unnest({marks})"


def _store(octets: str) -> str:
    return (
        f"WITH m AS (INSERT INTO message {_rows(_MESSAGE_TYPES, octets)}),"
        f" p AS (INSERT INTO part {_rows(_PART_TYPES)}) INSERT INTO recipient {_rows(_RECIPIENT_TYPES)}"
    )


STORE = _store("%b")
"""Columns of messages, parts and recipients. Octets go as they are, not as text: that is a third of the time."""

STORE_LARGE = _store("%s")
"""The same where no content is inline: an array of nothing but nulls has no binary form."""

WIDTHS = (len(_MESSAGE_TYPES), len(_PART_TYPES), len(_RECIPIENT_TYPES))

STORE_CHUNK = "INSERT INTO chunk VALUES (%s, %s, %s)"

STORED = "SELECT id, digest FROM message WHERE seq = %s"

DUE = "SELECT min(due) FROM part WHERE standing = 'queued' AND route = %s"

COUNT = "SELECT count(*) FROM part WHERE standing = 'queued' AND route = %s"

ROUTES = (
    "WITH RECURSIVE r AS ("
    "(SELECT route FROM part WHERE standing = 'queued' ORDER BY route LIMIT 1) UNION ALL"
    " SELECT (SELECT route FROM part WHERE standing = 'queued' AND route > r.route ORDER BY route LIMIT 1)"
    " FROM r WHERE r.route IS NOT NULL) SELECT route FROM r WHERE route IS NOT NULL"
)
"""From one to the next through the index: what waits may be a million, and routes are few."""

_QUALIFIED = ", ".join(f"part.{name}" for name in LEASE.split(", "))
_TAKE = (
    "UPDATE part SET owner = %(owner)s, due = %(until)s, epoch = epoch + 1 FROM found"
    f" WHERE part.message = found.message AND part.part = found.part RETURNING {_QUALIFIED}"
)

CLAIM_AGED = (
    "WITH found AS MATERIALIZED (SELECT message, part FROM part WHERE message < %(below)s AND route = %(route)s"
    " AND standing = 'queued' AND (owner = '' OR due <= %(now)s) AND warned <= %(warned)s"
    f" ORDER BY message LIMIT %(limit)s FOR UPDATE SKIP LOCKED) {_TAKE}"
)

_GIVEN = "unnest(%s::bigint[], %s::integer[], %s::integer[]) AS given (message, part, epoch)"
_IS_GIVEN = "part.message = given.message AND part.part = given.part AND part.epoch = given.epoch"

RENEW = f"UPDATE part SET due = %s FROM {_GIVEN} WHERE {_IS_GIVEN} RETURNING part.message, part.part"

RELEASE = f"UPDATE part SET due = %s, owner = '', epoch = part.epoch + 1 FROM {_GIVEN} WHERE {_IS_GIVEN}"

LOAD_MESSAGES = f"SELECT seq, {MESSAGE} FROM message WHERE seq = ANY(%s::bigint[])"

LOAD_RECIPIENTS = f"SELECT message, part, {RECIPIENT} FROM recipient WHERE message = ANY(%s::bigint[]) ORDER BY message, number"

LOAD_CHUNK = "SELECT octets FROM chunk WHERE message = %s AND number = %s"

FINISH = (
    f"WITH p AS (DELETE FROM part USING {_GIVEN} WHERE {_IS_GIVEN} RETURNING part.message, part.part),"
    " r AS (DELETE FROM recipient USING p WHERE recipient.message = p.message AND recipient.part = p.part),"
    " m AS (DELETE FROM message WHERE seq IN (SELECT message FROM p) AND NOT EXISTS ("
    "SELECT 1 FROM part WHERE part.message = seq AND NOT EXISTS ("
    "SELECT 1 FROM p WHERE p.message = part.message AND p.part = part.part)) RETURNING seq),"
    " c AS (DELETE FROM chunk USING m WHERE chunk.message = m.seq)"
    " SELECT p.message, p.part, m.seq IS NOT NULL FROM p LEFT JOIN m ON m.seq = p.message"
)
"""Delete whole parts, and messages of which no part is left: returns the parts, and whether the message went along."""

_EMPTY = "NOT EXISTS (SELECT 1 FROM part WHERE part.message = message.seq)"
_DROP = (
    "WITH m AS (DELETE FROM message WHERE {which} RETURNING seq),"
    " r AS (DELETE FROM recipient USING m WHERE recipient.message = m.seq),"
    " c AS (DELETE FROM chunk USING m WHERE chunk.message = m.seq) SELECT seq FROM m"
)

DROP_EMPTY = _DROP.format(which=f"seq = ANY(%s::bigint[]) AND {_EMPTY}")
"""Two parts that end at the same moment each still see the other: whoever is later takes the message along by this."""

SWEEP = _DROP.format(which=_EMPTY)

_HEARD = (
    "WHERE message = %(message)s AND part = %(part)s AND epoch = %(epoch)s RETURNING message),"
    " d AS (DELETE FROM recipient USING p WHERE recipient.message = p.message"
    " AND recipient.number = ANY(%(finished)s::integer[])),"
    " u AS (UPDATE recipient SET reply = given.reply"
    " FROM p, unnest(%(numbers)s::integer[], %(replies)s::text[]) AS given (number, reply)"
    " WHERE recipient.message = p.message AND recipient.number = given.number) SELECT message FROM p"
)

CHANGE = (
    "WITH p AS (UPDATE part SET owner = '', epoch = epoch + 1, due = %(due)s, attempts = attempts + %(attempted)s,"
    " warned = warned | %(warned)s, standing = %(standing)s, reason = %(reason)s"
    f" {_HEARD}"
)
"""What a lease came to that leaves some of its recipients."""

NOTE = f"WITH p AS (UPDATE part SET due = %(until)s {_HEARD}"
"""What a transaction of a leased part came to; the lease goes on. Done twice it comes to the same."""

SET_ASIDE = (
    "UPDATE part SET standing = 'broken', reason = %s, owner = '', epoch = epoch + 1"
    " WHERE message = %s AND part = %s AND epoch = %s"
)

CLAMP = "UPDATE part SET due = %s WHERE standing = 'queued' AND due > %s"

EXPIRE_HELD = (
    "WITH found AS MATERIALIZED (SELECT message, part FROM part WHERE standing = 'held' AND due < %s"
    " ORDER BY due LIMIT %s FOR UPDATE SKIP LOCKED),"
    " p AS (DELETE FROM part USING found WHERE part.message = found.message AND part.part = found.part"
    " RETURNING part.message, part.part, part.route, part.reason, part.due),"
    " r AS (DELETE FROM recipient USING p WHERE recipient.message = p.message AND recipient.part = p.part"
    " RETURNING recipient.message, recipient.part, recipient.number, recipient.address)"
    " SELECT p.message, message.id, p.route, p.reason, message.sender, ARRAY("
    "SELECT address FROM r WHERE r.message = p.message AND r.part = p.part ORDER BY number)"
    " FROM p JOIN message ON seq = p.message ORDER BY p.due"
)
"""Delete held parts; what they leave of their messages is for DROP_EMPTY."""
