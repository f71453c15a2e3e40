"""What reports on TLS are made of."""

from tests.history.making import NOON, database, kept

from relayproxy.history.tls import collect
from relayproxy.mailauth.tls_report import Failure, Policy, Seen
from relayproxy.model.event import TlsEvent

LINES = ("version: STSv1", "mode: enforce", "mx: *.a.example", "max_age: 86400")


def connection(domain="a.example", result="success", policy="sts", at=NOON, host="mx.a.example", **facts):
    return TlsEvent(at, "out", domain, host, 25, policy, result, **facts)


def test_connections_are_counted_by_domain_and_policy(place):
    applied = {"policy_strings": LINES, "mx_patterns": ("*.a.example",)}
    kept(
        place,
        connection(**applied),
        connection(**applied),
        connection(result="certificate-expired", reason="old", **applied),
        connection(policy="tlsa", result="validation-failure"),
        connection(policy="opportunistic", result="starttls-not-supported"),
        connection(policy="verify"),
        connection("B.example", policy="dane"),
        connection("192.0.2.1"),
        connection("[192.0.2.1]"),
        connection("localhost"),
        connection(at=NOON + 100),
    )
    asked = database(place)
    found = collect(asked, NOON, NOON + 100)
    assert collect(asked, NOON, NOON + 100, domain="b.example") == {"b.example": found["b.example"]}
    asked.close()
    assert found == {
        "a.example": (
            Seen(
                Policy("no-policy-found", "a.example"),
                1,
                {Failure("starttls-not-supported", "mx.a.example"): 1},
            ),
            Seen(
                Policy("sts", "a.example", LINES, ("*.a.example",)),
                2,
                {Failure("certificate-expired", "mx.a.example", "old"): 1},
            ),
            Seen(Policy("tlsa", "a.example"), 0, {Failure("validation-failure", "mx.a.example"): 1}),
        ),
        "b.example": (Seen(Policy("tlsa", "b.example"), 1),),
    }


def test_the_address_that_was_tried_is_no_part_of_the_reason(place):
    kept(
        place,
        connection(result="certificate-expired", reason="192.0.2.1:25: old"),
        connection(result="certificate-expired", reason="[2001:db8::1]:25: old"),
        connection(result="sts-policy-invalid", reason="the policy of a.example: no mode"),
    )
    asked = database(place)
    ((seen,),) = collect(asked, NOON, NOON + 1).values()
    asked.close()
    assert seen.failures == {
        Failure("certificate-expired", "mx.a.example", "old"): 2,
        Failure("sts-policy-invalid", "mx.a.example", "the policy of a.example: no mode"): 1,
    }
