import pytest
from tests.history.making import DAY, LATER, NO, NOON, OK, database, kept, message, recipient

from relayproxy.history import queries
from relayproxy.history.rows import class_of
from relayproxy.model.event import NoteEvent, RefusalEvent, TlsEvent
from relayproxy.model.finding import Finding
from relayproxy.testing.mail import make_address, make_client

ALL = (0.0, NOON + 100 * DAY)


@pytest.fixture
def asked(place):
    """Return a function that keeps events and opens the history."""
    opened = []

    def ask(*events):
        kept(place, *events)
        opened.append(database(place))
        return opened[-1]

    yield ask
    for one in opened:
        one.close()


def test_totals_by_every_key(asked):
    history = asked(
        message(1, identity="ana", findings=(Finding("campaign", "hit", props={"name": "spring"}),)),
        message(2, at=NOON + DAY, outcome="rejected", replies=[NO], to=("b@example.net", "c@example.com")),
        message(3, at=NOON + DAY, outcome="deferred", replies=[LATER], route="", size=50),
    )
    days = queries.totals(history, *ALL, by="day")
    assert [(one.key, one.messages, one.relayed, one.rejected, one.deferred, one.octets) for one in days] == [
        ("2024-10-04", 1, 1, 0, 0, 1000),
        ("2024-10-05", 2, 0, 1, 1, 1050),
    ]
    keys = {
        by: [(one.key, one.messages) for one in queries.totals(history, *ALL, by=by)] for by in queries.KEYS
    }
    assert keys["login"] == [("", 2), ("ana", 1)]
    assert keys["campaign"] == [("", 2), ("spring", 1)]
    assert keys["route"] == [("", 1), ("mailstore", 2)]
    assert keys["recipient_domain"] == [("example.com", 1), ("example.net", 3)]
    assert keys["sender_domain"] == [("example.org", 3)]
    assert keys["rule"] == []
    assert keys["hour"] == [("2024-10-04T12", 1), ("2024-10-05T12", 2)]
    assert queries.totals(history, NOON, NOON + 1, by="day")[0].messages == 1
    with pytest.raises(KeyError):
        queries.totals(history, *ALL, by="nonsense")


def test_percentiles_by_nearest_rank(asked):
    history = asked(
        *(message(n, seconds=n / 100) for n in range(1, 101)), message(200, outcome="held", seconds=9)
    )
    (found,) = queries.latencies(history, *ALL, by="route")
    assert found == queries.Latency("mailstore", 100, 0.5, 0.9, 0.95, 0.99, 1.0)
    assert queries.latencies(history, *ALL, by="day", outcome="held")[0].p50 == 9


def test_findings_by_method_and_property(asked):
    rule = Finding("rule", "hit", 2.0, {"id": "no-invoices"}, by="rules")
    history = asked(
        message(1, findings=(Finding("spf", "pass", by="spf"), rule)),
        message(2, findings=(Finding("spf", "fail", by="spf"), rule)),
        message(3, findings=(Finding("spf", "pass", by="spf"),)),
    )
    assert [(one.result, one.messages) for one in queries.findings(history, *ALL, method="spf")] == [
        ("pass", 2),
        ("fail", 1),
    ]
    assert queries.findings(history, *ALL, method="rule", prop="id") == (
        queries.FindingCount("rule", "hit", "rules", "no-invoices", 2, 4.0),
    )
    assert len(queries.findings(history, *ALL)) == 3


def test_each_recipient_has_its_own_result(asked):
    history = asked(
        message(
            1, outcome="deferred", replies=[OK, LATER, NO], to=("a@x.example", "b@x.example", "c@y.example")
        )
    )
    assert queries.failures(history, *ALL) == (
        queries.FailureCount("x.example", "pending", "mailbox", "4.2.1", 1),
        queries.FailureCount("y.example", "failed", "policy", "5.7.1", 1),
    )
    (entry,) = queries.story(history, "m1")
    assert [(address, outcome) for address, outcome, _ in entry.recipients] == [
        ("a@x.example", "done"),
        ("b@x.example", "pending"),
        ("c@y.example", "failed"),
    ]


def test_refusals_by_stage_and_class(asked):
    client = make_client()
    rcpt = RefusalEvent(NOON, "c.1", "rcpt", client, NO, make_address(""), recipient("b@example.net"))
    history = asked(RefusalEvent(NOON, "c", "connect", client, LATER), rcpt, rcpt)
    assert queries.refusals(history, *ALL) == (
        queries.RefusalCount("rcpt", "policy", "5.7.1", 2),
        queries.RefusalCount("connect", "mailbox", "4.2.1", 1),
    )


def test_tls_results_are_counted_for_reports(asked):
    good = TlsEvent(NOON, "out", "example.net", "mx.example.net", 25, "verify", "success", "TLSv1.3")
    bad = TlsEvent(
        NOON, "out", "example.net", "mx.example.net", 25, "verify", "certificate-expired", reason="old"
    )
    history = asked(good, good, bad)
    assert queries.tls_results(history, *ALL) == (
        queries.TlsCount("example.net", "mx.example.net", "verify", "certificate-expired", "old", 1),
        queries.TlsCount("example.net", "mx.example.net", "verify", "success", "", 2),
    )
    with pytest.raises(ValueError, match="RFC 8460"):
        TlsEvent(NOON, "out", "example.net", "mx.example.net", 25, "verify", "nonsense")


def test_the_story_of_a_message_holds_what_came_later(asked):
    history = asked(
        message(1, findings=(Finding("spf", "pass", 0.5, by="spf"),), reason="why"),
        NoteEvent(NOON + 5, "attempt", "m1", make_address("b@example.net"), LATER, "mailstore", {"try": 2}),
        NoteEvent(NOON + 9, "complaint", "m1", details={"from": "fbl@example.com"}),
        message(2),
    )
    first, attempt, complaint = queries.story(history, "m1")
    assert (first.kind, first.reason, first.findings) == ("message", "why", (("spf", "pass", "spf", 0.5),))
    assert (attempt.outcome, attempt.details, attempt.recipients[0][0]) == (
        "pending",
        {"try": 2},
        "b@example.net",
    )
    assert complaint.details == {"from": "fbl@example.com"}
    with pytest.raises(ValueError, match="kind of note"):
        NoteEvent(NOON, "nonsense", "m1")


@pytest.mark.parametrize(
    ("status", "kind"),
    [("", ""), ("5.1.1", "address"), ("4.4.2", "network"), ("5.0.0", "other"), ("2.9.9", "other")],
)
def test_classes_are_those_of_rfc_3463(status, kind):
    assert class_of(status) == kind


def test_how_queued_mail_fared(asked):
    def note(kind, name, reply, seconds, route="far"):
        return NoteEvent(NOON, kind, "q1", make_address(name), reply, route, {"seconds_queued": seconds})

    history = asked(
        *(note("attempt", f"u{n}@example.net", OK, n) for n in range(1, 11)),
        note("attempt", "x@example.net", LATER, 900.0),
        note("attempt", "y@example.com", NO, 5.0),
        note("bounce", "y@example.com", None, 5.0),
        note("bounce", "x@example.net", NO, 9000.0),
        NoteEvent(NOON, "attempt", "q2", None, LATER, "far", {"recipients": 3}),
    )
    (found,) = queries.deliveries(history, *ALL, by="route")
    assert found == queries.Delivery("far", 10, 1, 1, 1, 5, 10, 10, 10)
    com, net = queries.deliveries(history, *ALL, by="recipient_domain")
    assert (com.key, com.delivered, com.refused, com.expired, com.p50) == ("example.com", 0, 1, 0, 0.0)
    assert (net.key, net.delivered, net.refused, net.expired) == ("example.net", 10, 0, 1)
    with pytest.raises(KeyError):
        queries.deliveries(history, *ALL, by="ip")


def test_messages_are_grouped_by_the_rules_that_matched(asked):
    def rule(name):
        return Finding("rule", "hit", 1.0, {"id": name, "at": "r.yaml:3"}, by="rules")

    history = asked(
        message(1, findings=(rule("one"), rule("two"), rule("one")), seconds=1.0),
        message(2, findings=(rule("two"),), outcome="rejected", replies=[NO]),
        message(3),
    )
    found = queries.totals(history, *ALL, by="rule")
    assert [(one.key, one.messages, one.rejected) for one in found] == [("one", 1, 0), ("two", 2, 1)]
    assert [(one.key, one.p50) for one in queries.latencies(history, *ALL, by="rule")] == [
        ("one", 1.0),
        ("two", 1.0),
    ]


def test_deliveries_by_what_is_known_of_the_message(asked):
    spring = Finding("campaign", "hit", props={"name": "spring"})
    details = {"seconds_queued": 7}
    history = asked(
        message(1, identity="ana", findings=(spring,)),
        NoteEvent(NOON + 7, "attempt", "m1", make_address("b@example.net"), OK, "far", details),
    )
    for by, key in (("login", "ana"), ("campaign", "spring"), ("sender_domain", "example.org")):
        (found,) = queries.deliveries(history, *ALL, by=by)
        assert (found.key, found.delivered, found.p99) == (key, 1, 7)


def test_properties_with_dots_and_odd_names(asked):
    odd = {"header.d": "example.org", "a'b\"c": "x", "$.x": "y"}
    history = asked(message(1, findings=(Finding("dkim", "pass", props=odd),)))
    for name in ("header.d", "a'b"):
        (found,) = queries.findings(history, *ALL, method="dkim", prop=name)
        assert found.key == odd.get(name, "")


def test_a_message_counts_once_for_a_domain_and_for_a_rule(asked):
    rule = Finding("rule", "hit", 1.0, {"id": "one"}, by="rules")
    history = asked(
        message(1, to=("a@x.example", "b@x.example", "c@y.example"), findings=(rule, rule), seconds=2.0)
    )
    found = queries.totals(history, *ALL, by="recipient_domain")
    assert [(one.key, one.messages, one.octets) for one in found] == [
        ("x.example", 1, 1000),
        ("y.example", 1, 1000),
    ]
    (latency,) = queries.latencies(history, *ALL, by="rule")
    assert (latency.messages, latency.p50) == (1, 2.0)


def test_what_is_kept_of_findings_has_bounds(asked):
    long = Finding("x", "hit", props={f"k{n}": "v" * 9000 for n in range(50)})
    history = asked(message(1, findings=(long,) * 600))
    rows = history.rows("SELECT CAST(props AS TEXT) FROM finding")
    assert len(rows) == 500
    assert {len(row[0]) for row in rows} <= set(range(25_000))
    record = "v=DMARC1; p=none; rua=" + ",".join(f"mailto:r{n}@example.org" for n in range(200))
    history = asked(message(2, findings=(Finding("dmarc", "pass", props={"record": record}),)))
    (found,) = queries.findings(history, *ALL, method="dmarc", prop="record")
    assert found.key == record
