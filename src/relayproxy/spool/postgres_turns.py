"""Whose turn it is in the PostgreSQL store: what turns.py does in SQLite, as one statement that several may run at once.

All that is due, or where that is more than the limit: the highest priority first (or the lowest, as the caller asks),
and of each tenant one after the other, beginning behind the tenant that was served last. Must not know connections.
"""

from relayproxy.model.queued import HIGH, LOW, NORMAL
from relayproxy.spool.rows import LEASE

LOWEST_EVERY = 8
"""Each claim of this number is to be one with the lowest priority first."""

_VISITS = 50  # tenants of a priority that are looked at in one claim, from the last on, and from the first on

_WAITING = "FROM part WHERE standing = 'queued' AND route = %(route)s"
_PRIORITIES = ", ".join(f"({priority})" for priority in (HIGH, NORMAL, LOW))

_OLDEST = f"SELECT message, part, due {_WAITING} AND due <= %(now)s ORDER BY due LIMIT %(limit)s + 1"
"""If that is no more than the limit, nobody else has to be looked for."""

_NEXT = f"(SELECT tenant {_WAITING} AND priority = {{priority}} {{behind}} ORDER BY tenant LIMIT 1)"
_VISIT = (
    f"SELECT priority, {{round}}, 1, {_NEXT.format(priority='lane.priority', behind='{behind}')}"
    f" FROM (VALUES {_PRIORITIES}) AS lane (priority) WHERE (SELECT count(*) FROM oldest) > %(limit)s"
)
_VISITED = (
    f"{_VISIT.format(round=0, behind='AND tenant > %(last)s')} UNION ALL {_VISIT.format(round=1, behind='')} UNION ALL"
    f" SELECT priority, round, number + 1, {_NEXT.format(priority='visited.priority', behind='AND tenant > visited.tenant')}"
    f" FROM visited WHERE tenant IS NOT NULL AND (round = 0 OR tenant <= %(last)s) AND number < {_VISITS}"
)
"""From one tenant to the next through the index `part_turn`, so that one with a million messages costs one look."""

_SHARES = (
    "SELECT visited.priority, round, visited.tenant, message, part, place FROM visited CROSS JOIN LATERAL ("
    "SELECT message, part, row_number() OVER (ORDER BY due, message, part) AS place FROM ("
    f"SELECT message, part, due {_WAITING} AND priority = visited.priority AND tenant = visited.tenant"
    " AND due <= %(now)s ORDER BY due LIMIT %(limit)s) AS first) AS share"
    " WHERE round = 0 OR visited.tenant <= %(last)s"
)

_WANTED = (
    "SELECT message, part, row_number() OVER (ORDER BY priority * %(sign)s, place, round, tenant) AS turn FROM shares"
    " UNION ALL SELECT message, part, 1000000000 + row_number() OVER (ORDER BY due, message, part) FROM oldest"
)
"""The oldest come last: they are for where more tenants wait for their time than were looked at."""

_FOUND = (
    "SELECT part.message, part.part, turn"
    " FROM (SELECT message, part, min(turn) AS turn FROM wanted GROUP BY message, part) AS given"
    " JOIN part USING (message, part) WHERE standing || '' = 'queued' AND due + 0 <= %(now)s"
    " ORDER BY turn LIMIT %(limit)s FOR UPDATE OF part SKIP LOCKED"
)
"""Looked at once more, as others may have leased it since. What is added keeps the server from going through all that
is due, instead of the few that are given."""

_COLUMNS = ", ".join(f"part.{name}" for name in LEASE.split(", "))

CLAIM = (
    f"WITH RECURSIVE oldest AS MATERIALIZED ({_OLDEST}), visited (priority, round, number, tenant) AS ({_VISITED}),"
    f" shares AS ({_SHARES}), wanted AS ({_WANTED}), found AS MATERIALIZED ({_FOUND})"
    " UPDATE part SET owner = %(owner)s, due = %(until)s, epoch = epoch + 1 FROM found"
    f" WHERE part.message = found.message AND part.part = found.part RETURNING {_COLUMNS}, turn"
)
"""Lease parts; takes also `sign` (-1: the lowest priority first) and `last`. The last column is their order."""
