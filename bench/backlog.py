"""`python -m bench.backlog`: what a message costs a store that holds a thousand, and one that holds a million.

Fills a spool, and at each step measures storing, claiming, reading and settling, fifty at a time by one node; at the
end how long a relayproxy takes to greet on it. Then the same with a PostgreSQL of the bench's own: one node, and two.
CPU is that of the nodes; of a database in a server of its own it is told apart.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import tree
from bench.backlog_node import ROUTE, deposit
from bench.peers.postgres import missing_postgres, start_postgres
from bench.peers.relayproxy import COMMAND
from bench.programs import Helper, Program, free_port
from bench.report import table
from relayproxy.model.message import Message
from relayproxy.spool import tables
from relayproxy.spool.content import digest_of
from relayproxy.spool.database import Keys, open_database, prepare

_STEPS = (1_000, 10_000, 100_000, 1_000_000)
_AT_ONCE = 5_000
_EMPTY = Message(b"")


def fill(path: Path, start: int, end: int, size: int, tenants: int) -> float:
    """Put messages into a spool, many in a transaction; return the seconds."""
    began = time.monotonic()
    message = Message.from_bytes(b"Subject: bench\r\n\r\n" + b"x" * (size - 18))
    content = bytes(message)
    digest = digest_of(content, _EMPTY)
    keys = Keys(time.time)
    prepare(path)
    database = open_database(path)
    for first in range(start, end, _AT_ONCE):
        some = range(first, min(first + _AT_ONCE, end))
        items = [(keys.next(), deposit(n, message, tenants, time.time()), digest, content) for n in some]
        database.execute("BEGIN IMMEDIATE")
        tables.store(database, items)
        database.execute("COMMIT")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return time.monotonic() - began


def start_node(stack: ExitStack, folder: Path, place: dict[str, Any]) -> Helper:
    """Start a node on a store; it is warm when this returns."""
    node = Helper("bench.backlog_node", folder / "node.log")
    stack.callback(node.end)
    node.say(place)
    node.hear(60)
    return node


def measure(nodes: Iterable[Helper], seconds: float) -> tuple[float, float]:
    """Let nodes work at the same time; return messages per second together, and CPU ms per message."""
    nodes = list(nodes)
    for node in nodes:
        node.say(seconds)
    results = [node.hear(seconds + 60) for node in nodes]
    messages = sum(result["messages"] for result in results)
    return (
        sum(result["messages"] / result["seconds"] for result in results),
        sum(result["cpu"] for result in results) / messages * 1000,
    )


def greeting(folder: Path, spool: Path) -> float:
    """How many seconds a relayproxy takes from its start to its greeting on this spool. Raises BenchError."""
    port = free_port()
    config = folder / "relayproxy.yaml"
    config.write_text(
        json.dumps(
            {
                "version": 1,
                "hostname": "relayproxy.bench.example",
                "listeners": [{"name": "bench", "listen": f"127.0.0.1:{port}"}],
                "relay": {"networks": ["127.0.0.0/8"]},
                "upstreams": {ROUTE: {"address": f"127.0.0.1:{free_port()}"}},
                "routes": [{"upstream": ROUTE, "delivery": "queue"}],
                "spool": {"url": f"sqlite://{spool}"},
                "control": {"socket": str(folder / "control.sock")},
                "metrics": {"listen": "off"},
            }
        )
    )
    start = time.monotonic()
    program = Program([COMMAND, "run", "-C", config], folder / "log")
    try:
        program.wait_for_banner(port)
        return time.monotonic() - start
    finally:
        program.end(30)


def sqlite_report(_: ExitStack, folder: Path, options: argparse.Namespace) -> str:
    """Fill a spool step by step and measure at each."""
    path = folder / "spool" / "spool.db"
    rows, held, first = [], 0, 0.0
    for step in [step for step in _STEPS if step <= options.most]:
        took = fill(path, held, step, options.size, options.tenants)
        held = step
        with ExitStack() as nodes:
            place = {"path": str(path), "size": options.size, "tenants": options.tenants}
            node = start_node(nodes, folder, place)
            figures = sorted((measure([node], options.seconds) for _ in range(3)), key=lambda one: one[1])
        rate, cpu = figures[1]
        first = first or cpu
        size = path.stat().st_size / 2**30
        rows.append(
            [f"{step:,}", f"{rate:,.0f}", f"{cpu:.3f}", f"{cpu / first:.2f}", f"{took:.0f}", f"{size:.2f}"]
        )
    seconds = greeting(folder, path)
    return (
        f"### SQLite, {options.size} octets, {options.tenants} tenants\n\n"
        + table(["waiting", "msg/s", "CPU ms/msg", "/ first", "filled in s", "GiB"], rows)
        + f"\n\nWith {held:,} waiting relayproxy greets {seconds:.2f} s after its start."
    )


def postgres_report(stack: ExitStack, folder: Path, options: argparse.Namespace) -> str:
    """One node and two on one server."""
    if why := missing_postgres():
        return f"### PostgreSQL\n\nLeft out: {why}"
    server, port = start_postgres(folder, stack)
    place = {"host": "127.0.0.1", "port": port, "database": "postgres", "login": "bench"}
    place |= {"size": options.size, "tenants": options.tenants}
    nodes = [start_node(stack, folder, place) for _ in range(2)]
    rows = []
    for name, some in (("one node", nodes[:1]), ("two nodes", nodes)):
        used = tree.cpu_seconds(server.pid)
        rate, cpu = measure(some, options.seconds * 3)
        theirs = (tree.cpu_seconds(server.pid) - used) / (rate * options.seconds * 3) * 1000
        rows.append([name, f"{rate:,.0f}", f"{cpu:.3f}", f"{theirs:.3f}"])
    return f"### PostgreSQL, {options.size} octets\n\n" + table(
        ["", "msg/s together", "CPU ms/msg", "server's CPU ms/msg"], rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.backlog", description=__doc__)
    parser.add_argument("--most", type=int, default=_STEPS[-1], help="how many messages wait in the end")
    parser.add_argument("--size", type=int, default=4096, help="octets of a message")
    parser.add_argument("--tenants", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-queue-") as name, ExitStack() as stack:
        for made in (sqlite_report, postgres_report):
            print(made(stack, Path(name), options), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
