"""The goals: what was asked, what was measured, whether it is so. None of them is judged without figures."""

from collections.abc import Iterator
from dataclasses import dataclass

from bench.cells import SESSION_GROWTH, SIZE_GROWTH
from bench.lab import Sample
from bench.report import Figure, Results, cpu, hold, latency, number, peak, table

_OURS = (
    "relayproxy",
    "relayproxy-w2",
    "relayproxy-w4",
    "relayproxy-dkim",
    "relayproxy-checks",
    "relayproxy-rules",
    "relayproxy-inbound",
    "relayproxy-spam",
)
_GROWTH = 1.5  # how much dearer the largest step may be per unit and still count as linear


@dataclass(frozen=True)
class Goal:
    """`measured` and `limit` in the unit of the goal; `detail` has the figures behind them."""

    what: str
    limit: float
    measured: float | None
    detail: str
    below: bool = False

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        return "ok" if (self.measured < self.limit if self.below else self.measured <= self.limit) else "NO"


def _ratio(
    results: Results, what: str, cell: str, other: str, figure: Figure, limit: float, ours: str = "relayproxy", below: bool = False
) -> Goal:  # fmt: skip
    mine, theirs = results.middle(cell, ours, figure), results.middle(cell, other, figure)
    measured = results.ratio(cell, ours, other, figure)
    return Goal(what, limit, measured, f"{number(mine, 3)} / {number(theirs, 3)}", below)


def _above_start(sample: Sample) -> float:
    return sample.peak_mib - sample.start_mib


def _signing(results: Results) -> Goal:
    """The strict reading: 1.3 x the signature, plus pass-through as it is."""
    signed = results.middle("dkim", "relayproxy-dkim", cpu)
    plain = results.middle("dkim", "relayproxy", cpu)
    bare = results.middle("dkim", "signature", cpu)
    measured = (signed - plain) / bare if signed and plain and bare else None
    detail = f"({number(signed, 3)} - {number(plain, 3)}) / {number(bare, 3)}"
    return Goal("signing 4 KB, RSA-2048: CPU above pass-through, in bare signatures", 1.3, measured, detail)


def _body(results: Results) -> Iterator[Goal]:
    """A body is verified in little more than what has to be done to it, and beside the event loop."""
    whole, *floor = (
        results.middle("body", f"body-{name}", cpu) for name in ("verify", "sha256", "canonical")
    )
    known = whole is not None and None not in floor
    detail = f"{number(whole, 1)} / ({number(floor[0], 1)} + {number(floor[1], 1)})"
    yield Goal(
        "DKIM verify of 10 MB: / SHA-256 + one canonicalisation",
        1.5,
        whole / sum(floor) if known else None,
        detail,
    )
    held = results.middle("body", "body-verify", hold)
    yield Goal("DKIM verify of 10 MB: the loop is held, ms", 20, held, "median of the rounds' longest")


def _resumption(results: Results) -> Iterator[Goal]:
    """Resumed share of all connections in the measured rounds; the generator always offers a ticket."""
    for relay in ("relayproxy", "relayproxy-w2"):
        samples = results.samples("starttls", relay)
        made, resumed = sum(s.connections for s in samples), sum(s.resumed for s in samples)
        full = (made - resumed) / made if made else None
        detail = f"{resumed:,} of {made:,} resumed"
        yield Goal(f"STARTTLS: share of full handshakes ({relay})", 0.01, full, detail)


def _honesty(results: Results) -> Iterator[Goal]:
    every = [
        sample
        for outcome in results.outcomes.values()
        for name, samples in outcome.samples.items()
        if name in _OURS
        for sample in samples
    ]
    detail = f"of {sum(sample.messages for sample in every):,} messages"
    for what in ("lost", "doubled", "unasked"):
        measured = sum(getattr(sample, what) for sample in every) if every else None
        yield Goal(f"messages {what}, all cells", 0, measured, detail)


def _growth(results: Results) -> Iterator[Goal]:
    few, many = SESSION_GROWTH[1], SESSION_GROWTH[-1]
    mine, theirs = results.middle(many, "relayproxy", cpu), results.middle(few, "relayproxy", cpu)
    measured = mine / theirs if mine and theirs else None
    detail = f"{number(mine, 3)} / {number(theirs, 3)}"
    yield Goal("CPU per message at 1,000 sessions / at 10", _GROWTH, measured, detail)
    small, large = SIZE_GROWTH[2], SIZE_GROWTH[-1]
    mine, theirs = results.middle(large, "relayproxy", cpu), results.middle(small, "relayproxy", cpu)
    measured = mine / 25 / theirs if mine and theirs else None
    yield Goal(
        "CPU per MB at 25 MB / at 1 MB", _GROWTH, measured, f"{number(mine, 1)} / 25 / {number(theirs, 1)}"
    )


def _unlocked(results: Results) -> Goal:
    """Errors of the state, and messages that were put off for them, as the relay's log and the client saw them."""
    samples = results.samples("spam", "relayproxy-spam")
    measured = sum(sum(sample.errors.values()) for sample in samples) if samples else None
    passed = sum(sample.messages for sample in samples)
    return Goal("errors of SQLite state at 4 workers", 0, measured, f"of {passed:,} messages")


def _queue(results: Results) -> Iterator[Goal]:
    """Accept and deliver together, each message on disk before its 250."""
    for cell, size in (("queue", "4 KB"), ("queue-50k", "50 KB")):
        yield _ratio(
            results, f"queue, {size}: CPU / Postfix's", cell, "postfix-queue", cpu, 0.5, "relayproxy-queue"
        )
        mine, theirs = (results.middle(cell, name, _pace) for name in ("relayproxy-queue", "postfix-queue"))
        measured = theirs / mine if mine and theirs else None
        yield Goal(
            f"queue, {size}: Postfix's messages/s / ours",
            1 / 3,
            measured,
            f"{number(theirs, 0)} / {number(mine, 0)}",
        )


def _pace(sample: Sample) -> float:
    return sample.rate


def goals(results: Results) -> list[Goal]:
    """All goals, in the order in which they were set."""
    found = []
    for cell, pattern in (("4k-many", "connections reused"), ("4k-one", "one message per connection")):
        found.append(_ratio(results, f"CPU 4 KB, {pattern}: / Postfix", cell, "postfix", cpu, 0.4))
        found.append(_ratio(results, f"CPU 4 KB, {pattern}: / script", cell, "script", cpu, 0.1))
    found.append(_ratio(results, "CPU 1 MB: / Postfix", "1m", "postfix", cpu, 0.4))
    found.append(_ratio(results, "CPU 1 MB: / haproxy", "1m", "haproxy", cpu, 4.0))
    found += _body(results)
    held = [peak(sample) for sample in results.samples("held", "relayproxy")]
    found.append(
        Goal(
            "20 x 10 MB in flight: peak private MiB",
            150,
            max(held, default=None),
            "the tree's peak, all rounds",
        )
    )
    idle = [_above_start(sample) for sample in results.samples("idle", "relayproxy")]
    live = min((sample.live for sample in results.samples("idle", "relayproxy")), default=0)
    found.append(
        Goal("2,000 idle sessions: private MiB above start", 60, max(idle, default=None) if live == 2000 else None, f"{live:,} sessions stood")
    )  # fmt: skip
    found.append(_signing(results))
    for peer, limit in (("postfix-rspamd-dkim", 0.35), ("postfix-opendkim-dkim", 0.25)):
        found.append(
            _ratio(results, f"CPU signing 4 KB: / {peer}", "dkim", peer, cpu, limit, "relayproxy-dkim")
        )
    for peer, limit in (("postfix-rspamd", 0.3), ("postfix-opendkim", 0.15), ("script-checks", 0.15)):
        found.append(
            _ratio(results, f"CPU checking 4 KB: / {peer}", "checks", peer, cpu, limit, "relayproxy-checks")
        )
    found.append(
        _ratio(results, "CPU incoming 4 KB: / postfix-rspamd-default", "inbound", "postfix-rspamd-default", cpu, 0.35, "relayproxy-inbound")
    )  # fmt: skip
    found.append(
        _ratio(results, "CPU 4 KB, 200 rules: / none", "rules", "relayproxy", cpu, 1.15, "relayproxy-rules")
    )
    found += _queue(results)
    for cell, sessions in (("s1", 1), ("4k-many", 10), ("s50", 50)):
        found += [
            _ratio(results, f"latency {q}, {sessions} session{'s'[: sessions > 1]}: / Postfix", cell, "postfix", latency(q), 1.0, below=True)
            for q in ("p50", "p99")
        ]  # fmt: skip
    found += [
        _ratio(results, f"CPU STARTTLS, one message per connection: / Postfix ({ours})", "starttls", "postfix", cpu, 0.75, ours)
        for ours in ("relayproxy", "relayproxy-w2")
    ]  # fmt: skip
    found += [_unlocked(results), *_resumption(results), *_growth(results), *_honesty(results)]
    return found


def goals_report(found: list[Goal], partial: bool) -> str:
    """The goals as a table; of a partial run only those that it measured."""
    rows = [
        [g.what, f"{'<' if g.below else '<='} {g.limit:g}", number(g.measured, 3), g.detail, g.verdict]
        for g in found
        if not partial or g.measured is not None
    ]
    return "### Goals\n\n" + table(["goal", "asked", "measured", "from", ""], rows)
